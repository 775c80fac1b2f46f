"""Measuring a trained cell: validation again on the chosen epoch, then the test split, once."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.data.base import Split
from peftbench.train.evaluate import Evaluation, evaluate


@dataclass(frozen=True)
class Scores:
    """What the trained model reached; None for a split that the protocol leaves alone."""

    val: Evaluation | None
    test: Evaluation | None


def measure(config: RunConfig, parts: Parts) -> Scores:
    """Evaluate the model as it is, with the method folded in where the protocol says so."""
    if config.protocol.merge:
        config.method.merge(parts.model.backbone)
    val_set = parts.data.val_set
    val = measure_split(config, parts, val_set) if val_set else None
    # The test split is first touched here, when nothing can be chosen any more.
    test = measure_split(config, parts, parts.data.split("test")) if config.protocol.report_test else None
    return Scores(val, test)


def measure_split(config: RunConfig, parts: Parts, split: Split) -> Evaluation:
    """One pass over a split with a new meter of the task."""
    meter = config.task.meter(parts.data.source)
    return evaluate(parts.model, parts.data.evaluation(split), meter, config.train.precision)
