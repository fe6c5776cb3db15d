"""Ratios that survive a change of machine: `make bench`."""
