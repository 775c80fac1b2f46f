"""What of a dataset is known from its yaml file, and how bytes are written."""

from __future__ import annotations

from typing import Any

from peftbench.config.choices import content
from peftbench.data.base import DATASETS, DatasetSpec


def shipped(name: str) -> tuple[type[DatasetSpec], dict[str, Any]]:
    """The class and the values of one yaml of the group, without composing a whole configuration."""
    values = content("dataset", name)
    # behind its own schema a file may name what it prefers of other groups
    schema, *_ = values.pop("defaults")
    kind, _, place = str(schema).removeprefix("/schema/dataset/").partition("@")
    # a file that sets other sections too has its own under the section's name
    own = values.get("dataset", {}) if place == "dataset" else values
    return DATASETS.get(kind), own


def size_of(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
