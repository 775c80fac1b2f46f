"""Kinds of plain values and their names: what a part of a record must hold; "?" allows null, which is unknown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from peftbench.foundation.errors import brief


def value_problems(name: str, value: Any, kind: Any) -> Iterator[str]:
    """Problems of one value, each naming it. `kind` is a word, the keys of a dict with their kinds, or a one-tuple of
    such keys for a dict or null.
    """
    if isinstance(kind, tuple):
        if value is None:
            return
        kind = kind[0]
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            yield f"{name} must be an object, got {brief(repr(value))}"
            return
        for key, inner in kind.items():
            if key not in value:
                yield f"{name}.{key} missing"
            else:
                yield from value_problems(f"{name}.{key}", value[key], inner)
        return
    if value is None and kind.endswith("?"):
        return
    word = kind.rstrip("?")
    if not _is(value, word):
        yield f"{name} must be {_WORDS[word]}{' or null' if kind.endswith('?') else ''}, got {brief(repr(value))}"


_WORDS = {
    "text": "a word",
    "words": "words, or none",
    "flag": "true or false",
    "dict": "an object",
    "number": "a finite number",
    "positive": "a number of at least 0",
    "fraction": "a fraction from 0 to 1",
    "count": "a whole number from 0 to 2^63 - 1",
    "size": "a whole number from 1 to 2^63 - 1",
    "any": "anything",
}


def _is(value: Any, word: str) -> bool:
    if word in ("count", "size"):
        return type(value) is int and (word == "size") <= value < 2**63
    if word in ("number", "positive", "fraction"):
        if type(value) not in (int, float) or not _is_finite(value):
            return False
        return word == "number" or (value >= 0 and (word == "positive" or value <= 1))
    if word == "words":
        return isinstance(value, str)
    kinds: dict[str, type] = {"text": str, "flag": bool, "dict": dict, "any": object}
    return isinstance(value, kinds[word]) and value != ""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False
