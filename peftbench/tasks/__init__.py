"""What a model is trained for: its head, its loss, its metrics, and which of them is the primary number."""
