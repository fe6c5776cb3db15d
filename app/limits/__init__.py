"""Limits on requests: admission by deadline, concurrency, memory, rate and body size."""
