"""The yaml files of a group as plain values, without composing a whole configuration."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from peftbench.config.gate import config_dir
from peftbench.config.overrides import choices_of


def shipped(group: str) -> dict[str, dict[str, Any]]:
    """Choice -> content of its yaml, with `defaults` as a list of its own."""
    folder = config_dir() / group
    return {name: content(group, name) for name in choices_of(folder)}


def content(group: str, name: str) -> dict[str, Any]:
    """What the yaml of one choice says."""
    values = OmegaConf.to_container(OmegaConf.load(config_dir() / group / f"{name}.yaml"))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
