"""Which methods are worth their cost: no other is at least as accurate for at most the same."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.boards.table import Row, Table

# Key of a cost -> title of its axis.
AXES = {
    "trainable": "trainable parameters, head included",
    "memory": "training memory, bytes",
    "flops": "training FLOPs per image",
}


def cost(row: Row, axis: str) -> float | None:
    """A row's cost along an axis; None when it is unknown or, as a logarithm has no zero, nothing."""
    value: float | None = {
        "trainable": None if row.params_method is None else row.params_method + (row.params_head or 0),
        "memory": row.memory_bytes,
        "flops": row.train_flops_per_image,
    }[axis]
    return value or None


def points(table: Table, axis: str) -> list[tuple[Row, float, float]]:
    """(row, cost, mean of groups in percent) of the measured rows that have both."""
    return [
        (row, value, 100 * row.mean_of_groups.mean)
        for row in table.rows
        if row.mean_of_groups is not None and (value := cost(row, axis)) is not None
    ]


def front(candidates: Sequence[tuple[float, float]]) -> list[int]:
    """Indices, by rising cost, of the (cost, accuracy) pairs that no other pair beats; of equal pairs the first."""
    order = sorted(range(len(candidates)), key=lambda index: (candidates[index][0], -candidates[index][1]))
    chosen: list[int] = []
    for index in order:
        if not chosen or candidates[index][1] > candidates[chosen[-1]][1]:
            chosen.append(index)
    return chosen
