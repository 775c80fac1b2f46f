"""Choosing hyperparameters on validation images: the same number of trials for every method."""
