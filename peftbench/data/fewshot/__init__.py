"""Few images of each class: drawn from any dataset, or from the published lists."""
