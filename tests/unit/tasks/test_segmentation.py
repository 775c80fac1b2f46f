from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.contracts.backbones import BUILDERS, images
from peftbench.foundation.errors import TrainingDiverged
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes
from peftbench.tasks.decoders import FCNDecoder, LinearDecoder
from peftbench.tasks.segmentation import IGNORED, MapModel, Segmentation, SegmentationMeter, tapped_blocks
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


@pytest.mark.parametrize("family", ["vit_cls", "swin", "convnext"])
@pytest.mark.parametrize("decoder", ["linear", "fcn"])
def test_scores_have_the_size_of_the_image_and_the_decoder_trains(family: str, decoder: str) -> None:
    backbone = BUILDERS[family]()
    install(METHODS.get("linear")(), backbone)
    model = Segmentation(decoder=decoder).model(backbone, CLASSES, 0)
    assert isinstance(model, MapModel) and model.added == []
    scores = model(images(2))
    assert scores.shape == (2, 4, 32, 32)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())


def test_parameters_of_the_decoders() -> None:
    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    # ViT-B with four maps and 150 classes; vit_micro with three and five gives the sheet's 2,693 at its width of 128
    assert size(LinearDecoder([768] * 4, 150)) == 3072 * (2 + 150) + 150
    assert size(LinearDecoder([128] * 3, 5)) == 2_693
    assert size(FCNDecoder([384], 150)) == 9 * 384 * 256 + 2 * 256 + 256 * 150 + 150


def test_blocks_are_evenly_spaced_or_the_last_of_each_stage() -> None:
    shape = BUILDERS["vit_cls"]().shape
    assert tapped_blocks(shape, 3) == (0, 1, 2) == tapped_blocks(shape, 9)
    assert tapped_blocks(shape, 1) == (2,)
    assert tapped_blocks(BUILDERS["swin"]().shape, 4) == (1, 2)


def test_the_same_seed_gives_the_same_decoder() -> None:
    one, two, other = (
        Segmentation().model(BUILDERS["vit_cls"](), CLASSES, seed).head.state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
