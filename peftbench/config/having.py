"""Which choices of a section have an option."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import cache

from peftbench.config.parts import NAMED, outlined
from peftbench.foundation.spec import Spec

# sections whose registered names are the choices of their group
_CHOICES = ("method", "launcher")
UNKNOWN = re.compile(r"unknown option (\w+)\.(\w+)")
# of many choices so many are named
MOST_NAMED = 5


def had_by(problem: str) -> str:
    """`; launcher=joblib, ray have it` to end a problem of an unknown option with; "" where none has it."""
    unknown = UNKNOWN.match(problem)
    if unknown is None or unknown[1] not in _CHOICES:
        return ""
    names = having(unknown[1], unknown[2])
    if not names:
        return ""
    return f"; {unknown[1]}={first_of(names)} {'has' if len(names) == 1 else 'have'} it"


def first_of(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


@cache
def having(section: str, option: str) -> tuple[str, ...]:
    """The names of a section of `NAMED` whose parts have this option."""
    names = NAMED[section][1]().names()
    return tuple(name for name in names if has_option(outlined(section, name), option))


def has_option(cls: type[Spec], option: str) -> bool:
    """Whether a class of options has one of this name."""
    return option in {field.name for field in dataclasses.fields(cls)}
