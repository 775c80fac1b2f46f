"""Kinds of datasets: embedded, own files in folders and lists, the Hugging Face hub, torchvision."""
