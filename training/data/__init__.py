"""Packs of pictures, decoded and cut into batches on the host."""
