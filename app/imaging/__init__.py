"""Pictures as arrays: decoding, colour, tiles, encoding. Pure functions; knows no model and no thread."""
