"""What a leaderboard table consists of: scores, columns, rows. Plain values, no rules."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peftbench.boards.significance import Friedman, interval95
from peftbench.foundation.metric import ACCURACY, Metric
from peftbench.records.collect import PAPER_DEFAULTS


@dataclass(frozen=True)
class Score:
    """Mean of a score over `n` seeds and its sample standard deviation, fractions for accuracy; None for a single seed.

    `n` is 0 for a published figure whose source does not state its seeds.
    """

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> float | None:
        """Half the width of the 95 % t interval of the mean over seeds; None without a spread."""
        return None if self.std is None else interval95(self.std, self.n)


@dataclass(frozen=True)
class Column:
    """One data set of a table. `name` is its header, which says when membership departs from the official list."""

    name: str
    dataset: str
    group: str
    membership: str
    test_images: str


@dataclass(frozen=True)
class Row:
    """One method in one setting. All means are None unless every shared column of the table has a cell.

    `remark` says how far the method is from its paper, empty where it is as published.
    Costs are means over the row's own cells, None when one of them is unknown; `device` names where the images per
    second were measured, and they are None when that is more than one device. `records` holds the fingerprints behind
    each cell, by seed. `sources` names who published the figures; it is empty for measured rows. `unverified` marks
    published ones of which something that decides their place is not known. `rate` is the learning rate, or their
    range over data sets; `changed` says which options of the optimiser are not as shipped; `reference` marks full
    fine-tuning, which is no PEFT method and takes no part in ranks and verdicts. `beside` are further numbers under
    their headers, in the unit in which they are read (`boards.dense`), `by_class` those of classes.
    """

    method: str
    cells: Mapping[str, Score]
    group_means: Mapping[str, Score]
    mean_of_groups: Score | None
    flat_mean: Score | None
    ppt: float | None
    params_method: float | None
    params_head: float | None = None
    memory_bytes: float | None = None
    train_flops_per_image: float | None = None
    forward_flops_per_image: float | None = None
    train_images_per_second: float | None = None
    eval_images_per_second: float | None = None
    device: str = ""
    remark: str = ""
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    unverified: bool = False
    rate: str = ""
    changed: str = ""
    reference: bool = False
    beside: Mapping[str, Score] = field(default_factory=dict)
    by_class: Mapping[str, float] = field(default_factory=dict)
    # of clips: by how much the score is better in the frames' natural order, mean over data sets
    order_gap: float | None = None
    # of clips as well; tables of images have it in their records alone
    top5_accuracy: float | None = None

    @property
    def complete(self) -> bool:
        return self.flat_mean is not None

    @property
    def num_seeds(self) -> tuple[int, int]:
        """Fewest and most seeds of a cell."""
        counts = [score.n for score in self.cells.values()] or [0]
        return min(counts), max(counts)


@dataclass(frozen=True)
class Comparison:
    """What the complete measured rows of a table can be said to differ in; see `comparison.compare`.

    `methods` are the rows compared, in table order, and `ranks` their average ranks. `verdicts` has a word for each of
    them and `basis` says what it rests on: "data sets", "seeds" or "" when nothing can be said. `wilcoxon` are
    Holm-adjusted p-values of all pairs, `against_best` those of the verdicts. `remarks` say what the data is too small
    for.
    """

    methods: tuple[str, ...]
    num_datasets: int
    ranks: tuple[float, ...]
    friedman: Friedman | None
    critical_difference: float | None
    wilcoxon: tuple[tuple[float, ...], ...] | None
    basis: str
    against_best: Mapping[str, float | None]
    verdicts: Mapping[str, str]
    remarks: tuple[str, ...]

    @property
    def rank_of(self) -> dict[str, float]:
        return dict(zip(self.methods, self.ranks, strict=True))


@dataclass(frozen=True)
class Table:
    """Methods that may be compared: one backbone, weights, protocol and recipe, and one choice of hyperparameters.

    `published` rows stand beside the measured ones for reading only: they follow protocols of their own and enter no
    rank, test or note. `task` is empty for classification; `metric` says what the scores are.
    """

    backbone: str
    protocol: str
    hyperparameters: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    comparison: Comparison
    published: tuple[Row, ...] = ()
    task: str = ""
    metric: Metric = ACCURACY
    # over which columns means and ranks are taken; the others are shown beside them
    shared: tuple[Column, ...] = ()
    suite: str = ""
    recipe: str = ""
    short: bool = False
    split: str = "test"
    # images of every class that were trained on, where the protocol draws so few
    shots: int | None = None
    # of few-shot tables the protocol and recipe without the shots: those of one family differ in them alone
    family: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.group for column in self.shared or self.columns))

    @property
    def fingerprints(self) -> set[str]:
        """Those of the records behind it."""
        return {name for row in self.rows for names in row.records.values() for name in names}

    @property
    def choice(self) -> str:
        """How the hyperparameters were chosen, in words. Those of a paper are not called so where training was short,
        or where a row was trained with another rate than the shipped one."""
        if self.hyperparameters == PAPER_DEFAULTS and (self.short or any(row.changed for row in self.rows)):
            return "the methods' own options"
        return self.hyperparameters

    @property
    def title(self) -> str:
        """Backbone, protocol, choice of hyperparameters; suite; epochs, batch, precision and rates, where recorded."""
        task = f"{self.task} ({self.metric.name}), " if self.task else ""
        words = f"{task}{self.backbone}, {self.protocol}, {self.choice}"
        if self.recipe:
            words += f"; {self.suite}; {'short recipe: ' if self.short else ''}{self.recipe}"
        return words + ("; on validation images" if self.split == "val" else "")


def score(values: Sequence[float]) -> Score:
    """Mean and sample standard deviation (n - 1 in the denominator) of one number per seed."""
    return Score(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def ppt(accuracy: float, num_params: float) -> float:
    """Performance-per-trainable-parameters score: accuracy * exp(-log10(P / 10 + 1)), P in millions, accuracy in 0..1.

    V-PETL Bench (Xin et al., NeurIPS 2024) prints the score without its formula. This one is inferred from the printed
    numbers, of which it reproduces 84 of 91 to the two printed decimals; P leaves out the classification head.
    """
    return accuracy * math.exp(-math.log10(num_params / 1e7 + 1))
