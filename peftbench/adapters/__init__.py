"""Trained tensors as files: the one beside each record, and the one that is shared with others."""
