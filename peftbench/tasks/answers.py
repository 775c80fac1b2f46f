"""Answers to questions about images: VQA's accuracy, with what each annotator said."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.foundation.exact import exact
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured

ANNOTATORS = 10


def soft_scores(counts: Tensor) -> Tensor:
    """VQA v2's accuracy of an answer that `counts` of ten annotators gave, a fraction of the same shape.

    min(1, n / 3) averaged over the ten choices of nine annotators (Antol et al., ICCV 2015; the official evaluation):
    0, 0.3, 0.6, 0.9 for none to three, then 1.
    """
    counts = counts.double()
    with_own = (counts - 1).clamp(min=0, max=3) / 3
    without_own = counts.clamp(max=3) / 3
    return (counts * with_own + (ANNOTATORS - counts) * without_own) / ANNOTATORS


def scores_of(answers: Tensor, num_answers: int) -> Tensor:
    """What annotators answered, int64 [batch, annotators] with -1 outside the vocabulary -> scores [batch, answers]."""
    counts = torch.zeros(len(answers), num_answers + 1, dtype=torch.int64, device=answers.device)
    # the first place gathers what is outside
    counts.scatter_add_(1, answers + 1, torch.ones_like(answers))
    return soft_scores(counts[:, 1:])


def answer_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Binary cross-entropy with soft scores, summed over answers, mean over the batch (Teney et al., CVPR 2018)."""
    logits = exact(logits)
    return F.binary_cross_entropy_with_logits(logits, scores.to(logits.dtype), reduction="sum") / len(logits)


def drawn_answer(answers: Tensor) -> tuple[Tensor, Tensor]:
    """One answer of each question, drawn in proportion to its score: int64 [batch], and that score, [batch].

    answers: int64 [batch, annotators] with -1 outside the vocabulary. Where all are outside, some class of score 0.
    """
    same = answers[:, :, None] == answers[:, None, :]
    counts = same.sum(dim=2)
    scores = soft_scores(counts) * (answers >= 0)
    # each of those who said the same stands for an equal part of it
    shares = scores / counts + (scores.sum(dim=1, keepdim=True) == 0)
    # the first of exponential clocks to ring, so that nothing waits for the device
    drawn = (shares / torch.empty_like(shares).exponential_()).argmax(dim=1, keepdim=True)
    return answers.gather(1, drawn)[:, 0].clamp(min=0), scores.gather(1, drawn)[:, 0]


class AnswerMeter:
    """Logits [batch, answers] and `batch["answers"]` [batch, annotators] -> the mean score of the likeliest answer.

    `vqa_accuracy` is in 0..1; questions none of whose answers is in the vocabulary count as wrong, and their share is
    `unanswerable`. Predictions: the answer's number for every sample, int32.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        self._take(outputs.argmax(dim=1), scores_of(batch["answers"], outputs.shape[1]), batch)

    def _take(self, chosen: Tensor, scores: Tensor, batch: Batch) -> None:
        gained = scores.gather(1, chosen[:, None])[:, 0]
        self._seen.append((chosen, gained, (scores <= 0).all(dim=1), batch["index"]))

    def result(self) -> Measured:
        assert self._seen, "no batch was seen"
        chosen, gained, empty, index = (torch.cat(parts).cpu() for parts in zip(*self._seen, strict=True))
        metrics = {
            "vqa_accuracy": float(gained.mean()),
            "unanswerable": float(empty.double().mean()),
            "n": len(gained),
        }
        return Measured(metrics, chosen[index.argsort()].numpy().astype(np.int32))


class WrittenMeter(AnswerMeter):
    """Numbers of written answers [batch], -1 for words outside the vocabulary, whose share is `other_words`.

    Those count as wrong; the rest as in `AnswerMeter`.
    """

    def __init__(self, num_answers: int) -> None:
        super().__init__()
        self._num_answers = num_answers

    def update(self, outputs: Any, batch: Batch) -> None:
        scores = F.pad(scores_of(batch["answers"], self._num_answers), (0, 1))
        # the last place is what words outside gain
        self._take(torch.where(outputs < 0, self._num_answers, outputs), scores, batch)

    def result(self) -> Measured:
        measured = super().result()
        assert measured.predictions is not None
        other = measured.predictions == self._num_answers
        predictions = np.where(other, -1, measured.predictions).astype(np.int32)
        return Measured({**measured.metrics, "other_words": float(other.mean())}, predictions)
