"""Which methods of a table can be told apart, by which test, and what its data is too small for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from peftbench.boards import significance as sig
from peftbench.boards.table import Column, Comparison, Row
from peftbench.foundation.metric import ACCURACY, Metric

BEST, EQUAL, BELOW, UNTESTED = "best", "≈ best", "below", "?"


def compare(rows: Sequence[Row], columns: Sequence[Column], metric: Metric = ACCURACY) -> Comparison:
    """Ranks, tests and verdicts of the complete rows, which come sorted with the best one first.

    Full fine-tuning is a reference and takes no part: the verdicts are among PEFT methods. Where there are enough data
    sets the verdict is the pairwise Wilcoxon test over data sets, corrected by Holm for all pairs. Elsewhere it
    is a t test over seeds of the mean of groups against the best row that has several, with the variance pooled over
    methods and corrected by Holm for the number of such comparisons: it speaks of these data sets only. Incomplete rows
    take no part.
    """
    complete = [row for row in rows if row.complete and not row.reference]
    methods = tuple(row.method for row in complete)
    scores = np.array(
        [[metric.goodness(row.cells[column.name].mean) for column in columns] for row in complete]
    ).reshape(len(complete), len(columns))
    across = sig.wilcoxon_can_decide(len(complete), len(columns))
    wilcoxon = sig.wilcoxon_holm(scores) if across else None
    best, p_values = (0, [None, *wilcoxon[0, 1:]]) if wilcoxon is not None else _over_seeds(complete)
    basis = "data sets" if across else "seeds" if any(p is not None for p in p_values) else ""
    verdicts = [BEST if index == best else _verdict(p) for index, p in enumerate(p_values)]
    friedman = sig.friedman(scores) if complete else None
    return Comparison(
        methods=methods,
        num_datasets=len(columns),
        ranks=tuple(map(float, sig.average_ranks(scores))) if complete else (),
        friedman=friedman,
        critical_difference=None if friedman is None else sig.critical_difference(len(complete), len(columns)),
        wilcoxon=None if wilcoxon is None else tuple(tuple(map(float, line)) for line in wilcoxon),
        basis=basis,
        against_best={
            name: None if p is None else float(p)
            for index, (name, p) in enumerate(zip(methods, p_values, strict=True))
            if index != best
        },
        verdicts=dict(zip(methods, verdicts if len(methods) > 1 else [""], strict=False)),
        remarks=tuple(_remarks(complete, columns, basis, friedman, best, sum(p is not None for p in p_values))),
    )


def _over_seeds(rows: Sequence[Row]) -> tuple[int, list[float | None]]:
    """The first row whose overall mean has a spread over seeds, and of all rows Holm-adjusted p-values against it.

    None for that row itself and for rows without a spread; where no row has one the first is named.
    """
    overall = [row.mean_of_groups for row in rows]
    samples = {
        index: (score.mean, score.std, score.n)
        for index, score in enumerate(overall)
        if score is not None and score.std is not None
    }
    raw: dict[int, float | None] = {}
    if len(samples) > 1:
        raw = dict(zip(list(samples)[1:], sig.pooled_t(list(samples.values())), strict=True))
    known = {index: p for index, p in raw.items() if p is not None}
    adjusted = dict(zip(known, map(float, sig.holm(list(known.values()))), strict=True))
    return next(iter(samples), 0), [adjusted.get(index) for index in range(len(rows))]


def _verdict(p: float | None) -> str:
    if p is None:
        return UNTESTED
    return BELOW if p <= sig.LEVEL else EQUAL


def _remarks(
    rows: Sequence[Row],
    columns: Sequence[Column],
    basis: str,
    friedman: sig.Friedman | None,
    best_row: int,
    num_tested: int,
) -> Iterable[str]:
    """Where seeds decide, `num_tested` rows have been tested against row `best_row`: those that have a spread."""
    methods, datasets = len(rows), len(columns)
    if methods == 0:
        return
    if methods < 2:
        yield "nothing to compare: fewer than two complete rows"
        return
    level = f"{100 * sig.LEVEL:.0f} %"
    best = "the best PEFT row" + (" of several seeds" if best_row else "")
    if basis == "data sets":
        yield (
            f"verdict: '{EQUAL}' cannot be told apart from {best} at {level} "
            f"(Wilcoxon signed-rank over {datasets} data sets, Holm over {methods * (methods - 1) // 2} pairs)"
        )
    else:
        needed = next(n for n in range(1, 100) if sig.wilcoxon_can_decide(methods, n))
        too_small = (
            f"{_count(datasets, 'data set')} cannot decide a Wilcoxon test between {methods} methods ({needed} needed)"
        )
        if basis:
            yield (
                f"verdict: '{EQUAL}' cannot be told apart from {best} at {level}, on these data sets alone "
                f"(t over seeds, variance pooled over methods, Holm over {num_tested}); {too_small}"
            )
        else:
            yield f"no verdict: a single seed has no spread, and {too_small}"
    if friedman is None:
        yield (
            f"no Friedman test and no critical difference: they need 3 methods and {sig.FEWEST_DATASETS} data sets "
            f"that tell them apart, here are {methods} and {datasets}"
        )
        return
    rough = ""
    if datasets < sig.ROUGH_DATASETS or methods <= sig.ROUGH_METHODS:
        rough = f"; rough with fewer than {sig.ROUGH_DATASETS} data sets or {sig.ROUGH_METHODS + 1} methods"
    difference = sig.critical_difference(methods, datasets)
    answer = "ranks differ" if friedman.p <= sig.LEVEL else "no difference shown, so the ranks order nothing"
    yield (
        f"beside the verdict, a coarser look at ranks alone that decides nothing: Friedman chi2 = "
        f"{friedman.statistic:.1f}, p = {friedman.p:.2g}, {answer}; Nemenyi critical difference of average ranks at "
        f"{level}: {difference:.2f}{rough}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
