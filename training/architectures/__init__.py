"""Networks, one file each. Each file's `build` returns a `keras.Model`; the files do not import each other."""
