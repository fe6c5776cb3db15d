"""Compares this service with LitServe and Ray Serve, which need their own environment."""
