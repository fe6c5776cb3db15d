"""Pictures as arrays: decoding, color, tiles, encoding. Pure functions, without models or threads."""
