"""Presets of hyperparameters, and how they fill a configuration: `hparams=paper|osu`, published, and `hparams=ours`.

The table is `assets/hparams.csv`. A row is one published value: `option` and `value` are ours, `published` is what the
source prints. Rows without an option have no counterpart here and are reported as unused. `dataset` is a VTAB-1k task,
or `*` for what a method's recipe fixes for all of them. `chosen_on` says on which split the authors chose the value.
The suite's own rates are in `config/ours.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from peftbench.config import ours
from peftbench.foundation.errors import ConfigError, did_you_mean
from peftbench.foundation.spec import Spec, option

TABLE = Path(__file__).resolve().parents[1] / "assets" / "hparams.csv"
DEFAULT = "default"
ALL = "*"
FIXED = "fixed"


@dataclass(frozen=True)
class PublishedValue:
    """One row of the table."""

    preset: str
    method: str
    dataset: str
    option: str
    value: str
    published: str
    chosen_on: str
    source: str

    @property
    def as_yaml(self) -> int | float | bool | str | list[str]:
        """The value as yaml would read it; of lists, those of plain words."""
        if self.value.startswith("["):
            return [word.strip() for word in self.value.strip("[]").split(",")]
        if self.value in ("true", "false"):
            return self.value == "true"
        for kind in (int, float):
            try:
                return kind(self.value)
            except ValueError:
                continue
        return self.value


@dataclass(frozen=True)
class HparamsSpec(Spec):
    """What a preset did to a configuration. Written `hparams=<preset>` on the command line, where it is applied.

    `filled` holds the options that the preset set, `replaced` the values they had before; `unused` the published values
    that set nothing, for want of an option or because the command line named it. `chosen_on` is the split the authors
    chose on: `test` is no fair choice, and such numbers stand in tables of their own; `fixed`: all tasks have the same
    values. Tuning uses `replaced` alone.
    """

    section: ClassVar[str] = "hparams"

    preset: str = option(DEFAULT, choices=lambda: [DEFAULT, *presets()])
    chosen_on: str = option("")
    source: str = option("")
    filled: dict[str, Any] = option({})
    replaced: dict[str, Any] = option({})
    unused: list[str] = option([])

    @property
    def label(self) -> str:
        """How tables name rows with these hyperparameters."""
        whose = "rates of this suite" if self.preset == ours.PRESET else "published hyperparameters"
        return f"{whose} ({self.preset}, {self._how})"

    @property
    def _how(self) -> str:
        return "the same for all tasks" if self.chosen_on == FIXED else f"chosen on {self.chosen_on}"

    def lines(self) -> list[str]:
        """What the preset did, for the terminal; nothing for the default."""
        if self.preset == DEFAULT:
            return []
        filled = ", ".join(f"{name}={value}" for name, value in self.filled.items()) or "nothing"
        unused = [f"hparams={self.preset} leaves unused: {'; '.join(self.unused)}"] if self.unused else []
        how = self.source if self.preset == ours.PRESET else self._how
        return [f"hparams={self.preset} sets {filled} ({how})", *unused]


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """All rows of the table, in its order."""
    with TABLE.open(newline="", encoding="utf-8") as stream:
        return tuple(PublishedValue(**row) for row in csv.DictReader(stream))


def presets() -> list[str]:
    return sorted({ours.PRESET} | {row.preset for row in published_values()})


def apply_preset(values: Mapping[str, Any], preset: str, dataset: str, named: Collection[str]) -> dict[str, Any]:
    """The sections of a configuration with a preset's values, and the section `hparams` that says what was done.

    `dataset` is the data set's label (`vtab/dtd` or `dtd`). `named` holds what the command line names and therefore
    keeps: single options (`optim.lr`), or whole sections through their group (`optim`, `train`). Raises `ConfigError`
    for an unknown preset and for a pair that the preset has no values for.
    """
    if preset == DEFAULT:
        return {**values, "hparams": {}}
    method = str(values["method"]["name"])
    filled: dict[str, Any] = {}
    replaced: dict[str, Any] = {}
    unused: list[str] = []
    rows = [_own(values)] if preset == ours.PRESET else _rows_of_pair(preset, method, dataset.removeprefix("vtab/"))
    sections = {section: dict(value) for section, value in values.items() if isinstance(value, Mapping)}
    for row in rows:
        section, _, name = row.option.partition(".")
        if not row.option:
            unused.append(row.published)
        elif row.option in named or (section in named and section != "method"):
            unused.append(f"{row.option}={row.value} (named on the command line)")
        else:
            filled[row.option] = row.as_yaml
            replaced[row.option] = sections[section].get(name)
            sections[section][name] = row.as_yaml
    # a recipe without a value for each task was chosen on none of them
    splits = sorted({row.chosen_on for row in rows} - {FIXED}) or [FIXED]
    sources = list(dict.fromkeys(row.source for row in rows))
    done = {"preset": preset, "chosen_on": " and ".join(splits), "source": "; ".join(sources)}
    return {**values, **sections, "hparams": {**done, "filled": filled, "replaced": replaced, "unused": unused}}


def _own(values: Mapping[str, Any]) -> PublishedValue:
    """The suite's own rate as a row like those of the literature."""
    row = ours.own_rate(values)
    source = row.source_for(str(values["backbone"].get("title")))
    return PublishedValue(ours.PRESET, row.method, ALL, "optim.lr", row.lr, f"optim.lr={row.lr}", "val", source)


def _rows_of_pair(preset: str, method: str, dataset: str) -> list[PublishedValue]:
    rows = [row for row in published_values() if row.preset == preset]
    if not rows:
        raise ConfigError([f"hparams cannot be '{preset}'{did_you_mean(preset, [DEFAULT, *presets()])}"])
    own = [row for row in rows if row.method == method]
    if not own:
        raise ConfigError([f"hparams={preset} has no values for {method}; it has them for {_list(rows, 'method')}"])
    # where all tasks have the same values no row names one
    datasets = {row.dataset for row in own} - {ALL} or {row.dataset for row in rows} - {ALL}
    if dataset in datasets:
        return [row for row in own if row.dataset in (dataset, ALL)]
    tasks = ", ".join(sorted(datasets))
    raise ConfigError([f"hparams={preset} has no values for {method} on {dataset}; it has them for the tasks {tasks}"])


def _list(rows: list[PublishedValue], column: str) -> str:
    return ", ".join(sorted({getattr(row, column) for row in rows}))
