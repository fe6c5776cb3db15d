"""How models are measured: metrics, tables, preview grids, and the client of a running service."""
