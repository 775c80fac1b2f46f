"""Measuring a trained cell: validation again on the chosen epoch, then the test split, once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from peftbench.cells.last_block import WHOLE, LastBlock
from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.data.ready import Split
from peftbench.tasks.classification import averaged
from peftbench.tasks.dense import MapModel, MapTask
from peftbench.tasks.looks import SeveralLooks
from peftbench.tasks.model import TaskModel
from peftbench.train.evaluate import Evaluation, evaluate, evaluate_views
from peftbench.train.precision import widen_frozen


@dataclass(frozen=True)
class Scores:
    """What the trained model reached; None for a split that the protocol leaves alone."""

    val: Evaluation | None
    test: Evaluation | None


def measure(config: RunConfig, parts: Parts, last_block: LastBlock = WHOLE) -> Scores:
    """Evaluate the model as it is, with its last block as given and the method folded in where the protocol says so."""
    fold(config, parts)
    val_set = parts.data.val_set
    with last_block.in_use():
        val = measure_split(config, parts, val_set) if val_set else None
        # The test split is first touched here, when nothing can be chosen any more.
        test = measure_test(config, parts) if config.protocol.report_test else None
        if test is not None and parts.model.backbone.shape.frames > 1:
            test = with_order_gap(config, parts, test)
    return Scores(val, test)


def fold(config: RunConfig, parts: Parts) -> None:
    """Fold the method into the network where the protocol says so."""
    if config.protocol.merge:
        widen_frozen(parts.model)
        config.method.merge(parts.model.backbone)


def measure_split(config: RunConfig, parts: Parts, *views: Split, shuffle_frames: bool = False) -> Evaluation:
    """One pass over a split with a new meter of the task, or over several views of it, which count together."""
    meter, precision = config.task.meter(parts.data.source), config.train.precision
    batches = [parts.data.evaluation(view, shuffle_frames) for view in views]
    model = looking(config, parts.model)
    if len(batches) == 1:
        return evaluate(model, batches[0], meter, precision)
    return evaluate_views(model, batches, meter, partial(averaged, how=config.protocol.view_average), precision)


def measure_test(config: RunConfig, parts: Parts, shuffle_frames: bool = False) -> Evaluation:
    """The test split as the protocol shows it."""
    return measure_split(config, parts, *parts.data.test_views, shuffle_frames=shuffle_frames)


def with_order_gap(config: RunConfig, parts: Parts, natural: Evaluation) -> Evaluation:
    """The test pass with what it would have been on clips in no order: the primary number under `<name>_shuffled`, and
    by how much the natural order is better under `order_gap`, which shows whether a model uses time.
    """
    metric = config.task.metric
    shuffled = measure_test(config, parts, shuffle_frames=True).metrics[metric.name]
    gap = metric.goodness(natural.metrics[metric.name]) - metric.goodness(shuffled)
    found = {f"{metric.name}_shuffled": shuffled, "order_gap": gap}
    return replace(natural, metrics={**natural.metrics, **found})


def looking(config: RunConfig, model: TaskModel) -> nn.Module:
    """The model as the last evaluation uses it: once, or at several scales and mirrored, as the protocol says."""
    protocol = config.protocol
    if not (protocol.several_looks and isinstance(config.task, MapTask) and isinstance(model, MapModel)):
        return model
    return SeveralLooks(model, config.task, protocol.test_scales, protocol.test_flip)
