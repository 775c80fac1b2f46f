"""Readers of the archives VTAB was made from, one function each: files in, keyed examples of TFDS's splits out."""
