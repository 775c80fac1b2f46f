"""What a row costs, along the axes that accuracy is drawn against."""

from __future__ import annotations

from peftbench.boards.table import Row

# Key of a cost -> title of its axis.
AXES = {
    "trainable": "trainable parameters, head included",
    "memory": "training memory, bytes",
    "minutes": "training time of 1,000 images for 100 epochs",
    "flops": "training FLOPs per image",
}


def cost(row: Row, axis: str) -> float | None:
    """A row's cost along an axis; None when it is unknown. What trains nothing costs no time to train."""
    trainable = None if row.params_method is None else row.params_method + (row.params_head or 0)
    if trainable == 0 and axis in ("trainable", "minutes"):
        return 0.0
    value: float | None = {
        "trainable": trainable,
        "memory": row.memory_bytes,
        "minutes": None if not row.train_images_per_second else 100_000 / row.train_images_per_second / 60,
        "flops": row.train_flops_per_image,
    }[axis]
    return value or None
