"""Which other choices of a section have an option that the chosen one lacks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from peftbench.config.launcher import LAUNCHERS
from peftbench.config.parts import LOADED, outlined

# sections whose registered names are the choices of their group
_REGISTRIES: dict[str, Callable[[], Any]] = {"method": LOADED["method"], "launcher": lambda: LAUNCHERS}
_UNKNOWN = re.compile(r"unknown option (\w+)\.(\w+)")
_MOST_NAMED = 5


def had_by(problem: str) -> str:
    """`; launcher=joblib, ray have it` to end a problem of an unknown option with; "" where none has it."""
    unknown = _UNKNOWN.match(problem)
    if unknown is None or unknown[1] not in _REGISTRIES:
        return ""
    names = _having(unknown[1], unknown[2])
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    verb = "has" if len(names) == 1 else "have"
    return f"; {unknown[1]}={', '.join(names[:_MOST_NAMED])}{more} {verb} it"


@cache
def _having(section: str, option: str) -> tuple[str, ...]:
    registry, found = _REGISTRIES[section](), []
    for name in registry.names():
        cls = outlined(section, name) if section in LOADED else registry.get(name)
        if option in {field.name for field in dataclasses.fields(cls)}:
            found.append(name)
    return tuple(found)
