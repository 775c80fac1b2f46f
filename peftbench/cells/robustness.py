"""A trained cell on corrupted copies of its test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.data.corruptions import CorruptedImages, Pixels
from peftbench.data.ready import Split
from peftbench.foundation.errors import NotApplicable
from peftbench.train.evaluate import evaluate
from peftbench.train.stored import Values

Scores = dict[str, dict[str, float]]


def scores_on_corruptions(
    config: RunConfig,
    parts: Parts,
    names: Sequence[str],
    severities: Sequence[int],
    say: Callable[[str, dict[int, float]], None],
    photos: tuple[Pixels, ...] = (),
) -> tuple[float, Scores]:
    """The primary number on the clean test images, and corruption -> severity -> that number; nothing is chosen by it.

    `say` is told each corruption once it is done; `photos` are what frost lays over images. Raises `NotApplicable` for
    clips.
    """
    if parts.model.backbone.shape.frames > 1:
        raise NotApplicable("samples are clips; corruptions are defined for single images")
    split = parts.data.split("test")
    clean = _score(config, parts, split, split.inputs)
    found: Scores = {}
    for name in names:
        scores = {
            severity: _score(
                config, parts, split, {**split.inputs, "image": CorruptedImages(split.images, name, severity, photos)}
            )
            for severity in severities
        }
        say(name, scores)
        found[name] = {str(severity): score for severity, score in scores.items()}
    return clean, found


def _score(config: RunConfig, parts: Parts, split: Split, inputs: Mapping[str, Values]) -> float:
    batches = parts.data.evaluation(split, inputs=inputs)
    metrics = evaluate(parts.model, batches, config.task.meter(parts.data.source), config.train.precision).metrics
    return float(metrics[config.task.metric.name])
