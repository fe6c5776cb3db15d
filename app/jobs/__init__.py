"""Asynchronous jobs: queued on disk, run in the background, restarted after a crash."""
