"""Tinytown, the embedded world: a grammar, its judge and its TFDS data set."""
