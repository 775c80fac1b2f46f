"""Methods, one file each. Importing a file registers the methods in it; no list is kept anywhere."""
