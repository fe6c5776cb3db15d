"""The same SavedModel behind other servers: `python -m benchmarks.rivals`. They have an environment of their own."""
