from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.contracts.backbones import BUILDERS
from peftbench.foundation.errors import TrainingDiverged
from peftbench.tasks.base import Classes
from peftbench.tasks.human_parts import HumanParts
from peftbench.tasks.segmentation import IGNORED, Segmentation, SegmentationMeter, class_scores
from peftbench.train.batches import Batches
from peftbench.train.evaluate import evaluate
from peftbench.train.options import TrainSpec

CLASSES = Classes(("sky", "road", "car", "absent"))


class Scores(nn.Module):
    """Scores given as `image`: what a model that predicts them would say."""

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((7, 4, 5, 6)).astype(np.float32)
    scores[:, 3] = -9  # never predicted
    truth = rng.integers(0, 3, (7, 5, 6), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORED
    return scores, truth


@pytest.mark.parametrize(("batch_size", "shuffle"), [(7, False), (3, True)])
def test_metrics_match_counting_by_hand(batch_size: int, shuffle: bool) -> None:
    scores, truth = drawn()
    batches = Batches({"image": scores}, {"class_map": truth}, batch_size=batch_size, shuffle=shuffle)
    result = evaluate(Scores(), batches, SegmentationMeter(CLASSES.class_names))
    predicted, valid = scores.argmax(axis=1), truth != IGNORED
    ious, accuracies = {}, []
    for number, name in enumerate(CLASSES.class_names[:3]):
        true, said = (truth == number) & valid, (predicted == number) & valid
        ious[name] = (true & said).sum() / (true | said).sum()
        accuracies.append((true & said).sum() / true.sum())
    metrics = result.metrics
    assert metrics["miou"] == pytest.approx(np.mean(list(ious.values()))), "an absent class is left out of the mean"
    assert metrics["classes_present"] == 3 and "iou/absent" not in metrics
    assert {name: metrics[f"iou/{name}"] for name in ious} == pytest.approx(ious)
    assert metrics["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert metrics["pixel_accuracy"] == pytest.approx((predicted == truth)[valid].mean())
    log_p = np.take_along_axis(
        scores - np.log(np.exp(scores.astype(np.float64)).sum(1, keepdims=True)),
        np.where(valid, truth, 0)[:, None].astype(np.int64),
        axis=1,
    )[:, 0]
    assert metrics["loss"] == pytest.approx(-log_p[valid].mean(), rel=1e-5)
    assert result.num_samples == 7 and result.predictions is not None
    assert result.predictions.dtype == np.uint8 and (result.predictions == predicted).all()


def test_broken_scores_are_not_measured() -> None:
    scores, truth = drawn()
    scores[2, 1, 3, 3], truth[2, 3, 3] = np.nan, 1
    with pytest.raises(TrainingDiverged, match="nan"):
        evaluate(Scores(), Batches({"image": scores}, {"class_map": truth}, batch_size=7), SegmentationMeter("abcd"))


def test_pixels_without_a_class_count_neither_in_the_loss_nor_in_its_gradient() -> None:
    scores = torch.randn(2, 4, 3, 3, requires_grad=True)
    truth = torch.zeros(2, 3, 3, dtype=torch.int64)
    truth[:, 0] = IGNORED
    loss = Segmentation().loss_fn(TrainSpec())(Scores(), {"image": scores, "class_map": truth})
    expected = -torch.log_softmax(scores, dim=1)[:, 0, 1:].mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad is not None and not scores.grad[:, :, 0].any() and scores.grad[:, :, 1:].any()


def test_the_same_seed_gives_the_same_decoder() -> None:
    one, two, other = (
        Segmentation().model(BUILDERS["vit_cls"](), CLASSES, seed).head.state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_the_sheets_count_matrix() -> None:
    """0.5625 without the absent class; dividing by three classes, as VOC-style code does, would give 0.375."""
    counts = np.array([[5, 1, 0], [2, 3, 0], [0, 0, 0]], np.float64)
    found = class_scores(counts, ("a", "b", "absent"))
    assert found["miou"] == pytest.approx((5 / 8 + 3 / 6) / 2) == pytest.approx(0.5625)
    assert found["classes_present"] == 2 and found["miou"] * 2 / 3 == pytest.approx(0.375)


def test_scores_at_unknown_pixels_change_nothing() -> None:
    scores, truth = drawn()
    other = scores.copy()
    other.transpose(0, 2, 3, 1)[truth == IGNORED] = (5, -3, 0, 9)
    first, second = (
        evaluate(Scores(), Batches({"image": s}, {"class_map": truth}, batch_size=3), SegmentationMeter("abcd")).metrics
        for s in (scores, other)
    )
    assert {**first} == {**second}


def test_human_parts_have_classes_of_their_own_and_images_without_people_count_in_nothing() -> None:
    task, part = HumanParts(), np.arange(7 * 2).reshape(1, 7, 2).astype(np.uint8) % 7
    truth = np.concatenate([part, np.full_like(part, IGNORED)])
    scores = np.eye(7, dtype=np.float32)[truth % 7].transpose(0, 3, 1, 2).copy()
    scores[1] = 0
    assert task.num_outputs(CLASSES) == 7 and task.targets == ("human_parts",)
    found = evaluate(Scores(), Batches({"image": scores}, {"human_parts": truth}, batch_size=2), task.meter(CLASSES))
    assert found.metrics["miou"] == 1 and found.metrics["iou/lower_leg"] == 1
    batch = {"image": torch.from_numpy(scores), "human_parts": torch.from_numpy(truth).long()}
    expected = torch.nn.functional.cross_entropy(batch["image"][:1], batch["human_parts"][:1])
    assert task.loss_fn(TrainSpec())(Scores(), batch).item() == pytest.approx(expected.item())
