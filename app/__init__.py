"""The service: bytes become a `Picture`, a task plans, the engine runs tiles, and it goes back as bytes."""
