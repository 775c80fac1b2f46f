"""What was done, in words: the suite, the recipe and the rates behind a table, and where a row departs from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.boards.table import Column
from peftbench.boards.variants import describe, flatten, restored

# Papers train for 50 to 300 epochs; below that a row shows how fast a method learns, not how far it comes.
FEWEST_EPOCHS = 50
# Prefix of a suite's data sets -> its name and how many it has.
_SUITES = {"vtab": ("VTAB-1k", 19), "fgvc": ("FGVC", 5), "coop": ("few-shot CLIP", 11)}

# What the shipped configuration sets: `optim` -> options; `method/lora`, `protocol/vtab1k` and `train/short` ->
# {section: options}.
Shipped = Mapping[str, Mapping[str, Any]]


def suite(columns: Sequence[Column]) -> str:
    """`VTAB-1k, 3 of 19 tasks`, or the data sets by name where they are no known suite."""
    datasets = sorted({column.dataset for column in columns})
    families = {name.partition("/")[0] for name in datasets}
    if len(families) == 1 and (known := _SUITES.get(next(iter(families)))):
        return f"{known[0]}, {len(datasets)} of {known[1]} tasks"
    return ", ".join(datasets) if len(datasets) <= 4 else f"{len(datasets)} data sets"


def recipe(records: Iterable[Mapping[str, Any]]) -> tuple[str, bool]:
    """Epochs, batch, precision, optimiser and rates in words, "" where none is recorded; and whether it is short."""
    flat = [setting(record) for record in records]
    if not any("train.epochs" in values for values in flat):
        precisions = " and ".join(map(str, _values(flat, "train.precision")))
        return (f"no step of training, {precisions}" if precisions else ""), False
    epochs = _values(flat, "train.epochs")
    parts = [f"{_span(epochs)} epochs"] if epochs else []
    known = [values for values in flat if "train.batch_size" in values]
    batches = sorted({values["train.batch_size"] * values.get("train.accumulate", 1) for values in known})
    parts += [f"batches of {_span(batches)}"] if batches else []
    parts += [" and ".join(map(str, _values(flat, "train.precision")))]
    parts += [f"{' and '.join(_values(flat, 'optim.name'))}, lr {rates(flat)}"] if rates(flat) else []
    return ", ".join(part for part in parts if part), bool(epochs) and min(epochs) < FEWEST_EPOCHS


def rates(settings: Iterable[Mapping[str, Any]]) -> str:
    """The learning rates of some settings: `0.005`, `0.001 to 0.01`, "" where none is known."""
    return _span(_values(settings, "optim.lr"))


def setting(record: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a row of `collect`, with dotted names."""
    return flatten(json.loads(record["setting"]))


def changed(record: Mapping[str, Any], shipped: Shipped) -> str:
    """Options of the optimiser that are not as the shipped configuration sets them for this method and recipe.

    In words, with the shipped values behind; "" where nothing was changed or a preset or tuning chose on purpose.
    """
    values = restored(setting(record), json.loads(record["replaced"]))
    if not shipped or "optim.lr" not in values:
        return ""
    expected = dict(shipped["optim"])
    for part in (
        f"protocol/{values.get('protocol.title')}",
        *_recipes(values, shipped),
        f"method/{values['method.name']}",
    ):
        expected |= shipped.get(part, {}).get("optim", {})
    expected = {f"optim.{name}": value for name, value in expected.items()}
    names = sorted(name for name in expected if name in values and values[name] != expected[name])
    return f"{describe(values, names)} (shipped: {describe(expected, names)})" if names else ""


def _recipes(values: Mapping[str, Any], shipped: Shipped) -> list[str]:
    """Names of the shipped training recipes that a setting follows; one with a batch size is known by it."""
    found = []
    for name in sorted(name for name in shipped if name.startswith("train/")):
        own = dict(shipped[name].get("train", {}))
        if len(own) > 1:
            own.pop("epochs", None)
        if own and all(values.get(f"train.{option}") == value for option, value in own.items()):
            found.append(name)
    return found


def _values(settings: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    return sorted({values[name] for values in settings if name in values})


def _span(values: Sequence[Any]) -> str:
    if not values:
        return ""
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
