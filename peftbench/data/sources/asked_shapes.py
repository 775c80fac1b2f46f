"""Drawn images with one question each, of a closed set of answers: colour, kind, count and place of shapes, yes or no.

Pictures are drawn like those of `captioned_shapes`, and asked in words that the embedded pair knows ("the colour of the
star."). The order of the draws is part of the recipe.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.drawn import BOUNDS, random_of
from peftbench.data.raw import RawSplit
from peftbench.data.sources.captioned_shapes import NUMBERS, DrawnScenes, Shown, plural, shown_at
from peftbench.data.sources.named_shapes import COLOURS, SHAPES
from peftbench.data.texted import ANNOTATORS, ANSWERS, TextedSplit, answer_numbers
from peftbench.foundation.spec import option

# Part of every digest: change it when any pixel, question or answer changes.
VERSION = 1
VOCABULARY = (*COLOURS, *SHAPES, *NUMBERS[:7], "yes", "no")


@DATASETS.add("asked_shapes")
@dataclass(frozen=True)
class AskedShapes(DatasetSpec):
    """800 / 200 / 1,000 drawn images with a question each and the one answer that all annotators would give, of 25."""

    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return "asked_shapes"

    @property
    def group(self) -> str:
        return "embedded"

    def revision(self) -> str:
        return f"asked_shapes-v{VERSION}-seed{self.seed}"

    def open(self) -> Source:
        return AskedShapesSource(VOCABULARY, f"synthetic:v{VERSION}", "original", "synthetic:1000", (), self.seed)


@dataclass(frozen=True)
class AskedShapesSource(Source):
    """Draws on demand. Questions know left from right."""

    seed: int

    @property
    def targets(self) -> tuple[str, ...]:
        return (ANSWERS,)

    @property
    def mirrors(self) -> bool:
        return False

    def split(self, name: str) -> RawSplit:
        start, stop = BOUNDS[name]
        asked = [self._asked(index) for index in range(start, stop)]
        answers = answer_numbers([[answer] * ANNOTATORS for _, answer in asked], VOCABULARY)
        images = AskedImages(self.seed, start, stop, answers[:, 0].astype(np.int64))
        return TextedSplit(images, [[question] for question, _ in asked], answers)

    def _asked(self, index: int) -> tuple[str, str]:
        return question_of(shown_at(self.seed, index), random_of("asked_shapes", self.seed, index))


class AskedImages(DrawnScenes):
    """The pictures of `captioned_shapes`, labelled by the answers to their questions."""

    def __init__(self, seed: int, start: int, stop: int, labels: np.ndarray) -> None:
        super().__init__(seed, start, stop, "plain")
        self.labels = labels

    def content_digest(self) -> str:
        return hashlib.sha256(f"asked_shapes-v{VERSION}:{super().content_digest()}".encode()).hexdigest()


def question_of(shown: Shown, random: np.random.RandomState) -> tuple[str, str]:
    """A question about a picture and its answer; of every kind that can be asked of it equally often."""
    colour, shape = shown["colour"], shown["shape"]
    kinds = ["colour", "kind", "count", "there", *(["row", "column"] if "row" in shown else [])]
    kind = kinds[random.randint(len(kinds))]
    if kind == "colour":
        return f"the colour of the {shape}.", colour
    if kind == "kind":
        return f"the type of the {colour} shape.", shape
    if kind == "count":
        return f"the number of {plural(shape)}.", shown.get("count", NUMBERS[1])
    if kind in ("row", "column"):
        return f"the {kind} of the {shape}.", shown[kind]
    if true := random.uniform() < 0.5:
        asked = colour, shape
    elif random.uniform() < 0.5:
        asked = _another(colour, tuple(COLOURS), random), shape
    else:
        asked = colour, _another(shape, tuple(SHAPES), random)
    return f"there is a {' '.join(asked)}.", "yes" if true else "no"


def _another(word: str, words: tuple[str, ...], random: np.random.RandomState) -> str:
    others = [other for other in words if other != word]
    return others[random.randint(len(others))]
