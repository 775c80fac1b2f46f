"""Images with texts: captions of each, or a question about it with what annotators answered."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.raw import RawSplit

if TYPE_CHECKING:
    from PIL.Image import Image

Texts = tuple[tuple[str, ...], ...]
# the targets of images with captions, and of questions
CAPTIONS, ANSWERS = "captions", "answers"
# data without classes counts as one
ONE_CLASS = ("images",)
# annotators who answered each question of VQA v2
ANNOTATORS = 10


class TextedSplit(RawSplit):
    """`images`, each with texts of its own, one at least.

    answers: int32 [num, annotators], the number of each given answer in the vocabulary, -1 for one that is not in it.
    """

    def __init__(self, images: RawSplit, texts: Sequence[Sequence[str]], answers: np.ndarray | None = None) -> None:
        assert len(images) == len(texts), "every image has its texts"
        self.images, self.labels = images, images.labels
        self.texts = tuple(map(tuple, texts))
        self.answers = answers

    def content_digest(self) -> str:
        return self.images.content_digest()

    def read(self, index: int) -> Image:
        return self.images.read(index)

    def take(self, rows: np.ndarray) -> TextedSplit:
        answers = None if self.answers is None else self.answers[rows]
        return TextedSplit(self.images.take(rows), [self.texts[row] for row in rows.tolist()], answers)

    def describe(self, index: int) -> str:
        return self.images.describe(index)

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """`captions`, int64 [num]: how many texts each image has; or `answers`."""
        if self.answers is not None:
            return {ANSWERS: self.answers}
        return {CAPTIONS: np.array([len(own) for own in self.texts], dtype=np.int64)}

    def texts_bytes(self) -> bytes:
        """What a digest of the split adds for its texts and answers."""
        answers = b"" if self.answers is None else self.answers.tobytes()
        return json.dumps(self.texts).encode() + answers


def answer_numbers(given: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> np.ndarray:
    """What annotators answered as numbers of the vocabulary, -1 outside it or for nobody: int32 [questions, 10]."""
    numbers = {answer: number for number, answer in enumerate(vocabulary)}
    found = np.full((len(given), ANNOTATORS), -1, dtype=np.int32)
    for row, answers in zip(found, given, strict=True):
        row[: len(answers)] = [numbers.get(answer, -1) for answer in answers]
    return found


_NUMBERS = "none one two three four five six seven eight nine ten"
_AS_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"zero": "0"}


def plain_answer(answer: str) -> str:
    """An answer as VQA's evaluation compares them: lower case, digits for numbers, no articles, no punctuation.

    Its list of contractions is left out.
    """
    text = re.sub(r"(?<=\d),(?=\d)", "", answer.lower().strip())
    text = re.sub(r"[;/\[\]\"{}()=+\\_<>@`,?!]|\.(?!\d)", " ", text)
    words = [_AS_DIGITS.get(word, word) for word in text.split() if word not in ("a", "an", "the")]
    return " ".join(words)
