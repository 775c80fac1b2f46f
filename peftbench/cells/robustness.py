"""A trained cell on corrupted copies of its test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from peftbench.cells.measure import measure_split, measure_test
from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.data.corruptions import CorruptedImages, Pixels
from peftbench.data.ready import Split
from peftbench.foundation.errors import NotApplicable
from peftbench.train.evaluate import Evaluation

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measured:
    """`clean`: the primary number on the test images. `corrupted`: corruption -> severity -> that number. `side`: the
    shorter side of the images in pixels, which decides how strong a severity is.
    """

    clean: float
    corrupted: Scores
    side: int


def scores_on_corruptions(
    config: RunConfig,
    parts: Parts,
    names: Sequence[str],
    severities: Sequence[int],
    say: Callable[[str, dict[int, float]], None],
    photos: tuple[Pixels, ...] = (),
) -> Measured:
    """The test split clean and corrupted, each as the record's own test looks at it; nothing is chosen by it.

    `say` is told each corruption once it is done; `photos` are what frost lays over images. Raises `NotApplicable` for
    clips.
    """
    if parts.model.backbone.shape.frames > 1:
        raise NotApplicable("samples are clips; corruptions are defined for single images")
    views = parts.data.test_views
    clean = _number(config, measure_test(config, parts))
    found: Scores = {}
    for name in names:
        scores = {
            severity: _number(
                config, measure_split(config, parts, *(_corrupted(view, name, severity, photos) for view in views))
            )
            for severity in severities
        }
        say(name, scores)
        found[name] = {str(severity): score for severity, score in scores.items()}
    return Measured(clean, found, min(views[0].images.shape[1:3]))


def _corrupted(split: Split, name: str, severity: int, photos: tuple[Pixels, ...]) -> Split:
    """The same samples, with corrupted copies of their images."""
    images = CorruptedImages(split.images, name, severity, photos)
    return replace(split, inputs={**split.inputs, "image": images})


def _number(config: RunConfig, found: Evaluation) -> float:
    return float(found.metrics[config.task.metric.name])
