"""Naming what differs: two settings under one label are told apart by the options that are not equal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_UNSET = object()
# twelve digits of a digest tell it from any other in a table
_DIGEST = re.compile(r"[0-9a-f]{32,}")


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts -> one dict with dotted names: `{"optim": {"lr": 1}}` -> `{"optim.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def restored(setting: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, Any]:
    """A flat setting with the values that `replaced` holds for some of its options."""
    return {name: replaced.get(name, value) for name, value in setting.items()}


def differing(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the options, sorted, that do not have one and the same value in all (flat) settings."""
    known = list(settings)
    names = sorted({name for setting in known for name in setting})
    return [name for name in names if len({_exact(setting.get(name, _UNSET)) for setting in known}) > 1]


def describe(setting: Mapping[str, Any], names: Sequence[str]) -> str:
    """The named options in words: `optim.lr=0.01, method.rank=4`; `unset` for one that a setting does not have."""
    return ", ".join(f"{name}={_text(setting.get(name, _UNSET))}" for name in names)


def extend_label(label: str, words: str) -> str:
    """`lora` -> `lora (words)`; `lora (rank=16)` -> `lora (rank=16, words)`."""
    if not words:
        return label
    return f"{label[:-1]}, {words})" if label.endswith(")") else f"{label} ({words})"


def _text(value: Any) -> str:
    if value is _UNSET:
        return "unset"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return _DIGEST.sub(lambda match: match[0][:12], text)


def _exact(value: Any) -> str:
    return "" if value is _UNSET else json.dumps(value, sort_keys=True)
