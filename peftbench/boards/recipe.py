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
    parts = [f"{_span(epochs)} epoch{'' if epochs == [1] else 's'}"] if epochs else []
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

    In words, with the shipped values behind; "" where nothing was changed, a preset or tuning chose on purpose, or the
    method is not installed here.
    """
    values = restored(setting(record), json.loads(record["replaced"]))
    if "optim.lr" not in values or f"method/{values['method.name']}" not in shipped:
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


def unknown_methods(records: Iterable[Mapping[str, Any]], shipped: Shipped) -> list[str]:
    """Labels of the trained rows whose method ships nothing that is known here, as that of a plug-in not named."""
    if not shipped:
        return []
    flat = ((str(record["method"]), setting(record)) for record in records)
    trained = ((label, values["method.name"]) for label, values in flat if "optim.lr" in values)
    return sorted({label for label, name in trained if f"method/{name}" not in shipped})


def _recipes(values: Mapping[str, Any], shipped: Shipped) -> list[str]:
    """Names of the shipped training recipes that a setting follows, whatever its epochs.

    One with a batch size is known by it and, for other epochs than its own, by its rate; one that sets the epochs alone
    by these or, where a setting follows no other, by what it sets of the optimiser.
    """
    known, alike = [], []
    own_method = shipped.get(f"method/{values['method.name']}", {}).get("optim", {})
    for name in sorted(name for name in shipped if name.startswith("train/")):
        train = dict(shipped[name].get("train", {}))
        rates = {key: value for key, value in shipped[name].get("optim", {}).items() if key not in own_method}
        telling = {key: value for key, value in train.items() if key != "epochs"} or train
        whole = _holds(values, "train", train)
        if train and (whole or (_holds(values, "train", telling) and _at_its_rate(values, rates))):
            known.append(name)
        elif telling == train and rates and _holds(values, "optim", rates):
            alike.append(name)
    return known or alike


def _at_its_rate(values: Mapping[str, Any], rates: Mapping[str, Any]) -> bool:
    """Whether a recipe's own rate is taken or, by a method that brings a rate of its own, anything else it sets."""
    telling = {"lr": rates["lr"]} if "lr" in rates else rates
    return not telling or any(values.get(f"optim.{name}") == value for name, value in telling.items())


def _holds(values: Mapping[str, Any], section: str, options: Mapping[str, Any]) -> bool:
    return all(values.get(f"{section}.{option}") == value for option, value in options.items())


def _values(settings: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    return sorted({values[name] for values in settings if name in values})


def _span(values: Sequence[Any]) -> str:
    if not values:
        return ""
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"
