"""What must not be averaged, and how it is told apart: settings under one label are named by the options that differ.

All rules that split tables, columns and rows stand here. Records are rows of `collect` as dicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.foundation.identity import canonical

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
    return ", ".join(f"{name}={shown(setting.get(name, _UNSET))}" for name in names)


def extend_label(label: str, words: str) -> str:
    """`lora` -> `lora (words)`; `lora (rank=16)` -> `lora (rank=16, words)`."""
    if not words:
        return label
    return f"{label[:-1]}, {words})" if label.endswith(")") else f"{label} ({words})"


def distinct_names(records: Sequence[Mapping[str, Any]], label: str, sections: Sequence[str]) -> list[str]:
    """Each record's `label`, with what differs in those sections of the identity where one label has several."""
    chosen: dict[tuple[str, str], str] = {}
    for record in records:
        key = record["setting"], record["replaced"]
        if key not in chosen:
            identity = json.loads(record["setting"])
            flat = flatten({section: identity.get(section) for section in sections})
            # a preset may set a recipe's options per data set: the recipe is what it was before
            chosen[key] = canonical(restored(flat, json.loads(record["replaced"])))
    keys = [(record[label], chosen[record["setting"], record["replaced"]]) for record in records]
    by_label: dict[str, dict[str, dict[str, Any]]] = {}
    for name, text in keys:
        if text not in by_label.setdefault(name, {}):
            by_label[name][text] = json.loads(text)
    options = {name: differing(settings.values()) for name, settings in by_label.items()}
    full = {
        (name, text): extend_label(name, describe(setting, options[name]))
        for name, settings in by_label.items()
        for text, setting in settings.items()
    }
    return [full[key] for key in keys]


def column_names(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """(data, dataset) -> header. Different images under one dataset label get headers that say what differs."""
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in records:
        first.setdefault((record["data"], record["dataset"]), record)
    names = {}
    for (data, dataset), record in first.items():
        kind = record["membership"].split(":")[0]
        name = extend_label(dataset, kind if kind.endswith("-style") else "")
        options = differing(flatten(json.loads(other)) for other, label in first if label == dataset)
        names[data, dataset] = extend_label(name, describe(flatten(json.loads(data)), options))
    return names


def split_settings(method: str, cells: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, list[Any]]]:
    """Row label -> column -> repetitions. Settings of one method that meet in one column are never averaged.

    `cells` are pairs of a column's header and a record. The options in which settings differ within a column split the
    method into rows of their own in every column.
    """
    settings: dict[str, dict[str, str]] = {}
    for column, record in cells:
        settings.setdefault(column, {})[record["repetition_group"]] = record["setting"]
    meeting = [groups for groups in settings.values() if len(groups) > 1]
    names = sorted({name for groups in meeting for name in differing(_flat(text) for text in groups.values())})
    rows: dict[str, dict[str, list[Any]]] = {}
    for column, record in cells:
        label = extend_label(method, describe(_flat(record["setting"]), names)) if names else method
        rows.setdefault(label, {}).setdefault(column, []).append(record)
    return rows


def _flat(setting: str) -> dict[str, Any]:
    return flatten(json.loads(setting))


def shown(value: Any) -> str:
    """A value of an option as tables print it, a digest by its first digits."""
    if value is _UNSET:
        return "unset"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
    return _DIGEST.sub(lambda match: match[0][:12], text)


def _exact(value: Any) -> str:
    return "" if value is _UNSET else json.dumps(value, sort_keys=True)
