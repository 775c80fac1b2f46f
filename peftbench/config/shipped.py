"""What the shipped yaml files set of the optimiser, so that a table can say which rows were trained otherwise."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from peftbench.config.gate import config_dir
from peftbench.train.options import OptimSpec

_GROUPS = ("method", "protocol", "train")


def shipped_options() -> dict[str, dict[str, Any]]:
    """`optim` -> its defaults; `method/lora`, `protocol/vtab1k`, `train/short` -> what their files set, by section."""
    found: dict[str, dict[str, Any]] = {"optim": OptimSpec().identity()}
    for group in _GROUPS:
        for path in sorted((config_dir() / group).glob("*.yaml")):
            values = OmegaConf.to_container(OmegaConf.load(path))
            assert isinstance(values, dict)
            found[f"{group}/{path.stem}"] = {
                name: values[name] for name in ("optim", "train") if isinstance(values.get(name), dict)
            }
    return found
