"""What of a dataset is known from its yaml file, without composing a whole configuration, Hydra or torch."""

from __future__ import annotations

from typing import Any

from peftbench.config.choices import content
from peftbench.data.base import DATASETS, DatasetSpec


def shipped_dataset(name: str) -> tuple[type[DatasetSpec], dict[str, Any]]:
    """The class and the values of one yaml of the group."""
    values = content("dataset", name)
    # behind its own schema a file may name what it prefers of other groups
    schema, *_ = values.pop("defaults")
    kind, _, place = str(schema).removeprefix("/schema/dataset/").partition("@")
    # a file that sets other sections too has its own under the section's name
    own = values.get("dataset", {}) if place == "dataset" else values
    return DATASETS.get(kind), own
