"""Which other choices of a section have an option that the chosen one lacks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from peftbench.config.launcher import LAUNCHERS
from peftbench.config.parts import LOADED, outlined

# sections whose registered names are the choices of their group
_REGISTRIES: dict[str, Callable[[], Any]] = {"method": LOADED["method"], "launcher": lambda: LAUNCHERS}
UNKNOWN = re.compile(r"unknown option (\w+)\.(\w+)")
# of many choices so many are named
MOST_NAMED = 5


def had_by(problem: str) -> str:
    """`; launcher=joblib, ray have it` to end a problem of an unknown option with; "" where none has it."""
    unknown = UNKNOWN.match(problem)
    if unknown is None or unknown[1] not in _REGISTRIES:
        return ""
    names = _having(unknown[1], unknown[2])
    if not names:
        return ""
    return f"; {unknown[1]}={first_of(names)} {'has' if len(names) == 1 else 'have'} it"


def first_of(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


@cache
def _having(section: str, option: str) -> tuple[str, ...]:
    registry, found = _REGISTRIES[section](), []
    for name in registry.names():
        cls = outlined(section, name) if section in LOADED else registry.get(name)
        if option in {field.name for field in dataclasses.fields(cls)}:
            found.append(name)
    return tuple(found)
