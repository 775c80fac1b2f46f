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


class AnswerMeter:
    """Logits [batch, answers] and `batch["answers"]` [batch, annotators] -> the mean score of the likeliest answer.

    `vqa_accuracy` is in 0..1; questions none of whose answers is in the vocabulary count as wrong, and their share is
    `unanswerable`. Predictions: the answer's number for every sample, int32.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        chosen, scores = outputs.argmax(dim=1), scores_of(batch["answers"], outputs.shape[1])
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
