"""What the shipped yaml files set of the optimiser, so that a table can say which rows were trained otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.config.choices import OF_GROUP, content, shipped
from peftbench.train.options import OptimSpec

_GROUPS = ("method", "protocol", "train")
_SECTIONS = ("optim", "train")


def shipped_options() -> dict[str, dict[str, Any]]:
    """`optim` -> its defaults; `method/lora`, `protocol/vtab1k`, `train/short` -> what their files set, by section."""
    found: dict[str, dict[str, Any]] = {"optim": OptimSpec().identity()}
    for group in _GROUPS:
        for name, values in shipped(group).items():
            found[f"{group}/{name}"] = _set_there(values)
    return found


def _set_there(values: Mapping[str, Any]) -> dict[str, Any]:
    """Section -> options that a file sets, in itself or by a choice of that section which it names."""
    found = {section: values[section] for section in _SECTIONS if isinstance(values.get(section), dict)}
    for entry in values.get("defaults", []):
        named = OF_GROUP.fullmatch(str(entry))
        if named and named[1] in _SECTIONS:
            below = {key: value for key, value in content(named[1], named[2]).items() if key != "defaults"}
            found[named[1]] = below | found.get(named[1], {})
    return found
