from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.foundation.errors import TrainingDiverged
from peftbench.tasks.classification import ClassificationMeter, averaged
from peftbench.train.batches import Batches
from peftbench.train.evaluate import evaluate

NUM, CLASSES = 37, 5


def logits_and_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    # class 3 never occurs, so the mean over classes has four terms
    return rng.standard_normal((NUM, CLASSES)).astype(np.float32), rng.choice([0, 1, 2, 4], NUM, p=[0.6, 0.2, 0.1, 0.1])


def batches_of(logits: np.ndarray, labels: np.ndarray, **options: Any) -> Batches:
    return Batches({"image": logits}, {"label": labels}, **options)


@pytest.mark.parametrize(("batch_size", "shuffle"), [(37, False), (8, False), (8, True)])
def test_metrics_match_numpy(batch_size: int, shuffle: bool) -> None:
    logits, labels = logits_and_labels()
    batches = batches_of(logits, labels, batch_size=batch_size, shuffle=shuffle)
    result = evaluate(nn.Identity(), batches, ClassificationMeter(CLASSES))
    predicted = logits.argmax(axis=1)
    wide = logits.astype(np.float64)
    losses = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(NUM), labels]
    per_class = [np.mean(predicted[labels == label] == label) for label in (0, 1, 2, 4)]
    metrics = result.metrics
    assert list(metrics) == ["accuracy", "mean_class_accuracy", "loss", "correct", "n"]
    assert metrics["n"] == result.num_samples == NUM
    assert metrics["correct"] == np.sum(predicted == labels)
    assert metrics["accuracy"] == pytest.approx(np.mean(predicted == labels))
    assert metrics["mean_class_accuracy"] == pytest.approx(np.mean(per_class))
    assert metrics["accuracy"] != pytest.approx(metrics["mean_class_accuracy"])
    assert metrics["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert result.predictions is not None and result.predictions.dtype == np.uint16
    np.testing.assert_array_equal(result.predictions, predicted)


def test_top5_accuracy_where_there_are_more_than_five_classes() -> None:
    logits = np.random.default_rng(0).standard_normal((NUM, 9)).astype(np.float32)
    labels = np.arange(NUM) % 9
    metrics = evaluate(nn.Identity(), batches_of(logits, labels, batch_size=8), ClassificationMeter(9)).metrics
    five = np.argsort(-logits, axis=1)[:, :5]
    assert metrics["top5_accuracy"] == pytest.approx((five == labels[:, None]).any(axis=1).mean())


def test_evaluation_runs_in_eval_mode_and_leaves_modes_statistics_and_chance_alone() -> None:
    norm, dropout = nn.BatchNorm1d(CLASSES), nn.Dropout(0.9)
    model = nn.Sequential(norm, dropout)
    norm.eval()
    logits, labels = logits_and_labels()
    generator, buffers = torch.get_rng_state(), [buffer.clone() for buffer in norm.buffers()]
    result = evaluate(model, batches_of(logits, labels, batch_size=8), ClassificationMeter())
    assert (model.training, norm.training, dropout.training) == (True, False, True)
    assert all(map(torch.equal, buffers, norm.buffers()))
    assert torch.equal(generator, torch.get_rng_state())
    np.testing.assert_array_equal(result.predictions, logits.argmax(axis=1))  # dropout was off


def test_leaving_samples_out_is_refused() -> None:
    logits, labels = logits_and_labels()
    with pytest.raises(ValueError, match="keep_last=True"):
        evaluate(nn.Identity(), batches_of(logits, labels, batch_size=8, keep_last=False), ClassificationMeter())


def test_a_head_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="5 logits where the data has 4 classes"):
        evaluate(nn.Identity(), batches_of(*logits_and_labels(), batch_size=8), ClassificationMeter(4))


def test_broken_logits_are_not_scored() -> None:
    logits, labels = logits_and_labels()
    logits[20] = np.nan
    with pytest.raises(TrainingDiverged, match="evaluation loss is nan"):
        evaluate(nn.Identity(), batches_of(logits, labels, batch_size=8), ClassificationMeter())


def test_reduced_precision_runs_the_model_in_that_precision() -> None:
    seen = []

    class Spy(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            output = super().forward(input)
            seen.append(output.dtype)
            return output

    evaluate(
        Spy(CLASSES, CLASSES), batches_of(*logits_and_labels(), batch_size=64), ClassificationMeter(), precision="bf16"
    )
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_views_of_a_sample_count_together(how: str) -> None:
    """By hand: the class of the mean over three views, and the loss of that mean."""
    rng = np.random.default_rng(1)
    views = 3 * rng.standard_normal((3, NUM, CLASSES)).astype(np.float32)
    _, labels = logits_and_labels()
    first, *others = (batches_of(view, labels, batch_size=8) for view in views)
    together = partial(averaged, how=how)
    result = evaluate(nn.Identity(), first, ClassificationMeter(CLASSES), more_views=others, together=together)
    exponents = np.exp(views.astype(np.float64))
    probabilities = (exponents / exponents.sum(-1, keepdims=True)).mean(0)
    if how == "logits":
        mean = np.exp(views.astype(np.float64).mean(0))
        probabilities = mean / mean.sum(-1, keepdims=True)
    assert result.views == 3 and result.num_samples == NUM
    assert result.predictions is not None
    np.testing.assert_array_equal(result.predictions, probabilities.argmax(-1))
    assert result.metrics["loss"] == pytest.approx(-np.log(probabilities[np.arange(NUM), labels]).mean(), rel=1e-5)
    alone = evaluate(nn.Identity(), batches_of(views[0], labels, batch_size=8), ClassificationMeter(CLASSES))
    twice = [batches_of(views[0], labels, batch_size=8) for _ in range(2)]
    same = evaluate(nn.Identity(), twice[0], ClassificationMeter(CLASSES), more_views=twice[1:], together=together)
    assert same.metrics["accuracy"] == alone.metrics["accuracy"], "two views that are one change nothing"
    assert same.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-6)
