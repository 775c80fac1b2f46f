"""Clips from files: which frames, how they are decoded, and the lists that name them."""
