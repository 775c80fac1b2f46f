"""The words of the command line, checked before Hydra composes them: unknown groups, choices and options by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, ValueType
from hydra.errors import HydraException

from peftbench.foundation.errors import did_you_mean

OPEN = ("hydra",)


def word_problems(words: list[str], config_dir: Path, sections: list[str]) -> list[str]:
    """One message for every word that names no group, no choice of a group, or no section; [] if all is well.

    What stands behind a section's dot is left to the configuration gate, which knows the types.
    """
    problems = []
    for word in words:
        try:
            override = parsed(word)
        except HydraException:
            problems.append(f"'{word}' is not of the form group=choice or section.option=value")
            continue
        problems.extend(_problems(override, config_dir, sections))
    return problems


@cache
def parsed(word: str) -> Override:
    """One word as Hydra reads it. Raises `HydraException`."""
    return OverridesParser.create().parse_override(word)


def values_of(word: str, config_dir: Path) -> tuple[str, list[str] | None]:
    """The key of a word and the values a sweep gives it, `method=lora,ssf` -> lora and ssf; None for a plain word."""
    override = parsed(word)
    if not override.is_sweep_override():
        return override.get_key_element(), None
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        # as Hydra has it: the names in the group's own folder
        names = sorted(path.stem for path in (config_dir / override.get_key_element()).glob("*.yaml"))
        return override.get_key_element(), list(cast(Glob, override.value()).filter(names))
    return override.get_key_element(), list(override.sweep_string_iterator())


def named_options(words: list[str]) -> frozenset[str]:
    """The options and groups that the words name: `optim.lr=0.1 train=short` -> {"optim.lr", "train"}."""
    keys = [parsed(word).key_or_group or "" for word in words]
    return frozenset(key.split("@")[0] for key in keys)


def _problems(override: Override, config_dir: Path, sections: list[str]) -> list[str]:
    key = (override.key_or_group or "").split("@")[0]
    first, dot, _ = key.partition(".")
    if first.split("/")[0] in OPEN or override.is_delete():
        return []
    groups = sorted(path.name for path in config_dir.iterdir() if path.is_dir())
    if dot or key not in groups:
        if first in sections or first in groups:
            return []
        return [f"unknown option {key}{did_you_mean(first, [*sections, *groups])}"]
    known = choices_of(config_dir / key)
    return [
        f"{key} has no choice '{choice}'{did_you_mean(choice, known)}"
        for choice in _choices(override)
        if choice not in known
    ]


def choices_of(group: Path) -> list[str]:
    """Names of the yaml files of a group, those in subfolders as `folder/name`."""
    return sorted(str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml"))


def _choices(override: Override) -> list[str]:
    """The plain names given for a group; globs and other sweep functions are Hydra's business."""
    if override.is_sweep_override():
        return [str(item) for item in override.sweep_iterator()] if override.is_choice_sweep() else []
    value = override.value()
    return [str(value)] if isinstance(value, (str, int, float)) else []
