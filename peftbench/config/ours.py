"""Learning rates that the suite chose by its own trials, `hparams=ours`: one for each backbone family and method.

The table is `assets/own_rates.csv`, which scripts/own_rates.py makes from the trials in results/records/rates.jsonl.gz.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.foundation.errors import ConfigError

PRESET = "ours"
# the rates that each method was tried at, in those that it has under train=short
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
TABLE = Path(__file__).resolve().parents[1] / "assets" / "own_rates.csv"


@dataclass(frozen=True)
class OwnRate:
    """One row: of `rates`, `lr` had the highest of `accuracies`: means over `datasets`, in percent.

    Each data set gave `num_val` validation images. Of equally good rates it is the lowest. `recipe` holds the options
    that all trials shared, `NAME=VALUE` each.
    """

    family: str
    method: str
    lr: str
    rates: str
    accuracies: str
    datasets: str
    backbone: str
    num_val: str
    recipe: str

    @property
    def accuracy(self) -> str:
        return self.accuracies.split()[self.rates.split().index(self.lr)]

    @property
    def at_the_edge(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried, so that a better one may lie beyond."""
        return self.lr in (self.rates.split()[0], self.rates.split()[-1])

    @property
    def factor(self) -> float:
        """The best rate in those of the method."""
        return FACTORS[self.rates.split().index(self.lr)]

    def source_for(self, backbone: str) -> str:
        """How the rate was chosen, for the terminal and the record of a run on `backbone`."""
        edge = ", the end of the range" if self.at_the_edge else ""
        elsewhere = f"; {backbone} was not measured and may want a lower one, which tune=random finds"
        return (
            f"best of {self.rates.replace(' ', ', ')}{edge}, by {self.num_val} validation images of each of "
            f"{self.datasets.replace(' ', ', ')} on {self.backbone} "
            f"(mean {self.accuracy} %){'' if backbone == self.backbone else elsewhere}"
        )


@cache
def own_rates() -> tuple[OwnRate, ...]:
    """All rows of the table, in its order."""
    with TABLE.open(newline="", encoding="utf-8") as stream:
        return tuple(OwnRate(**row) for row in csv.DictReader(stream))


def family_of(model: str) -> str:
    """The family that a timm name tells: what is neither Swin nor ConvNeXt is taken for a ViT.

    A model of an unsupported family is refused where it is built.
    """
    return next((family for family in ("swin", "convnext") if model.startswith(family)), "vit")


def own_rate(values: Mapping[str, Any]) -> OwnRate:
    """The row for a configuration.

    Raises `ConfigError` for a method without trials on the family, and for another recipe than that of the trials: a
    rate for few epochs in small batches is not one for many in large ones.
    """
    method, family = str(values["method"]["name"]), family_of(str(values["backbone"]["model"]))
    rows = {row.method: row for row in own_rates() if row.family == family}
    if method not in rows:
        known = ", ".join(sorted(rows))
        raise ConfigError(
            [
                f"hparams={PRESET} has no rate for {method} on {family}; tune=random chooses one on validation images, "
                f"and there is one for {known}"
            ]
        )
    row = rows[method]
    other = [word for word in row.recipe.split() if _shown(values, word.partition("=")[0]) != word]
    if other:
        here = ", ".join(_shown(values, word.partition("=")[0]) for word in other)
        short = "take train=short as it is, or " if any(word.startswith("train.") for word in other) else ""
        raise ConfigError(
            [f"hparams={PRESET} was chosen with {', '.join(other)}, not {here}: {short}leave hparams={PRESET} out"]
        )
    return row


def _shown(values: Mapping[str, Any], option: str) -> str:
    section, _, name = option.partition(".")
    return f"{option}={values.get(section, {}).get(name)}"
