"""Commands for people who work on this repository: `python -m scripts.NAME`."""
