"""Models on a device. Knows no HTTP, no picture, and no files but models."""
