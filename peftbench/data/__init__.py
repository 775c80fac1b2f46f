"""Datasets: where images and labels come from, how they are split, and the cache of decoded pixels."""
