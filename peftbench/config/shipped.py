"""What the shipped yaml files set of the optimiser, so that a table can say which rows were trained otherwise."""

from __future__ import annotations

from typing import Any

from peftbench.config.choices import shipped
from peftbench.train.options import OptimSpec

_GROUPS = ("method", "protocol", "train")
_SECTIONS = ("optim", "train")


def shipped_options() -> dict[str, dict[str, Any]]:
    """`optim` -> its defaults; `method/lora`, `protocol/vtab1k`, `train/short` -> what their files set, by section."""
    found: dict[str, dict[str, Any]] = {"optim": OptimSpec().identity()}
    for group in _GROUPS:
        for name, values in shipped(group).items():
            set_there = {section: values.get(section) for section in _SECTIONS}
            found[f"{group}/{name}"] = {key: value for key, value in set_there.items() if isinstance(value, dict)}
    return found
