"""Losses and meters compute in single precision at least: half precision is widened, double precision stays."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.tasks.anchors import Detections, detection_loss
from peftbench.tasks.answers import answer_loss
from peftbench.tasks.base import TASKS
from peftbench.tasks.classification import ClassificationMeter, classification_loss
from peftbench.tasks.depth import DepthMeter
from peftbench.tasks.halves import HalvesMeter
from peftbench.tasks.marks import SaliencyMeter
from peftbench.tasks.mask_decoder import PromptedHead, Sizes
from peftbench.tasks.promptable import EncodedImages, Prompts, mask_losses
from peftbench.tasks.recall import recalls
from peftbench.tasks.segmentation import SegmentationMeter
from peftbench.train.options import TrainSpec

GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.rand(2, 3, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([[0, 1], [2, 255]])[None].repeat(2, 1, 1)
BATCH = {
    "label": torch.tensor([0, 2]),
    "class_map": CLASSES,
    "depth": torch.rand(2, 2, 2, generator=GENERATOR),
    "normals": torch.nn.functional.normalize(torch.randn(2, 3, 2, 2, generator=GENERATOR), dim=1),
    "edges": CLASSES.clamp(max=1),
    "saliency": CLASSES.clamp(max=1),
}


def _of_task(name: str) -> Callable[[Tensor], Tensor]:
    task: Any = TASKS.get(name)()
    return lambda outputs: task.loss(outputs, BATCH, TrainSpec())


ANCHORS = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 20.0, 24.0], [2.0, 30.0, 9.0, 40.0]])
BOXES = torch.tensor([[[0.0, 1.0, 8.0, 8.0, 1.0, 0.0]], [[9.0, 8.0, 20.0, 23.0, 0.0, 0.0]]])


def of_boxes(logits: Tensor) -> Tensor:
    return detection_loss(Detections(logits, logits.repeat(1, 1, 2), ANCHORS, (40, 40)), BOXES).mean()


LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "classification": (lambda outputs: classification_loss()(lambda *_: outputs, {**BATCH, "image": outputs}), (2, 3)),
    "vqa": (lambda outputs: answer_loss(outputs, SCORES), (2, 3)),
    "segmentation": (_of_task("segmentation"), (2, 3, 2, 2)),
    "depth": (_of_task("depth"), (2, 1, 2, 2)),
    "normals": (_of_task("normals"), (2, 3, 2, 2)),
    "edges": (_of_task("edges"), (2, 1, 2, 2)),
    "saliency": (_of_task("saliency"), (2, 1, 2, 2)),
    "detection": (of_boxes, (2, 3, 2)),
    "promptable": (lambda logits: mask_losses(logits, Prompts.of(CLASSES, 1, 2)).mean(), (2, 2, 2, 2)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_keeps_what_precision_it_is_given(name: str) -> None:
    loss, shape = LOSSES[name]
    outputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    exact, single, half = (loss(outputs.to(dtype)) for dtype in (torch.float64, torch.float32, torch.bfloat16))
    assert (exact.dtype, single.dtype, half.dtype) == (torch.float64, torch.float32, torch.float32)
    assert abs(exact - single) < 1e-6
    # the rounding of single precision would show
    assert exact.item() != single.item()
    assert half == loss(outputs.to(torch.bfloat16).float())


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_in_a_loss_of_double_precision_is_rounded_to_single(name: str) -> None:
    """Where torch itself makes numbers of double precision, the loss stays what it was."""
    loss, shape = LOSSES[name]
    outputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = loss(outputs)
    torch.set_default_dtype(torch.float64)
    try:
        assert found.item() == pytest.approx(loss(outputs).item(), rel=1e-14)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("task", "weight"), [("edges", 0.95), ("saliency", 2 / 3)])
def test_marked_pixels_weigh_what_they_should_in_double_precision(task: str, weight: float) -> None:
    """Of the three known pixels of each map one is marked."""
    batch = {task: torch.tensor([[[0, 1], [0, 255]]])}
    outputs = torch.tensor([[[[0.3, -1.2], [0.7, 5.0]]]], dtype=torch.float64)
    expected = weight * math.log1p(math.exp(1.2)) + (1 - weight) * sum(math.log1p(math.exp(x)) for x in (0.3, 0.7))
    found = TASKS.get(task)().loss(outputs, batch, TrainSpec())  # type: ignore[attr-defined]
    assert found.item() == pytest.approx(expected / 3, rel=1e-14)


def test_predicted_normals_are_divided_by_their_length_and_a_trillionth() -> None:
    outputs = torch.tensor([3e-9, 4e-9, 0.0], dtype=torch.float64).view(1, 3, 1, 1).requires_grad_()
    batch = {"normals": torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)}
    loss = TASKS.get("normals")().loss(outputs, batch, TrainSpec())  # type: ignore[attr-defined]
    assert loss.item() == pytest.approx((7e-9 / (5e-9 + 1e-12) + 1) / 3, rel=1e-14)
    nothing = torch.zeros(1, 3, 1, 1, requires_grad=True)
    TASKS.get("normals")().loss(nothing, batch, TrainSpec()).backward()  # type: ignore[attr-defined]
    assert nothing.grad is not None and nothing.grad.isfinite().all()


def test_masks_weigh_what_they_should_in_double_precision() -> None:
    """Dice of squared chances with 1e-5 in both of its parts, and the mean cross-entropy."""
    logits = torch.tensor([[[[0.3, -1.2], [0.7, 5.0]]]], dtype=torch.float64)
    prompts = Prompts.of(torch.tensor([[[0, 1], [1, 255]]]), 1, 1)
    chances = [1 / (1 + math.exp(-x)) for x in (0.3, -1.2, 0.7)]
    dice = 1 - (2 * (chances[1] + chances[2]) + 1e-5) / (sum(c * c for c in chances) + 2 + 1e-5)
    entropy = -(math.log(1 - chances[0]) + math.log(chances[1]) + math.log(chances[2])) / 3
    assert mask_losses(logits, prompts).item() == pytest.approx(dice + entropy, rel=1e-14)


def test_masks_are_answered_in_the_precision_of_the_embedding() -> None:
    head = PromptedHead(Sizes(64, 64, 1)).double()
    embedding = torch.randn(1, 64, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    boxes = torch.tensor([[[1, 2, 10, 12]]])
    found = EncodedImages(embedding, head, 16, 1).answer(boxes)[0]
    assert torch.equal(found, head(embedding, boxes, 16)[0])


# two scores that single precision cannot tell apart
CLOSE = torch.tensor([[1.0, 1.0 + 1e-12, 0.5]], dtype=torch.float64)
INDEX = {"index": torch.tensor([0])}


def test_meters_tell_apart_what_double_precision_does() -> None:
    label = {"label": torch.tensor([1]), **INDEX}
    for meter in (ClassificationMeter(), HalvesMeter(3)):
        meter.update(CLOSE, label)
        assert meter.result().predictions == [1]
    maps = SegmentationMeter(("a", "b", "c"))
    maps.update(CLOSE[:, :, None, None], {"class_map": torch.tensor([[[1]]]), **INDEX})
    assert maps.result().metrics["miou"] == 1
    # of two texts the second is nearer to the image by less than single precision has
    images, texts = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1e-5], [1.0, 0.0]])
    found = recalls(images.double(), texts.double(), torch.tensor([1, 0]), ks=(1,))
    assert found["image_to_text_r1"] == 1


def test_errors_of_depth_keep_double_precision() -> None:
    meter, truth = DepthMeter(), torch.tensor([[[2.0, 3.0]]], dtype=torch.float64)
    meter.update(torch.tensor([[[[2.1, 2.9]]]], dtype=torch.float64), {"depth": truth})
    expected = math.sqrt((math.log(1.05) ** 2 + math.log(2.9 / 3) ** 2) / 2)
    assert meter.result().metrics["log_rmse"] == pytest.approx(expected, rel=1e-13)


def test_what_stands_out_is_a_chance_above_the_threshold_itself() -> None:
    """0.3 of single precision lies above this chance, which is above 0.3."""
    chance = 0.3 + 1e-9
    meter = SaliencyMeter()
    marked = torch.tensor([[[1, 0]]])
    outputs = torch.tensor([[[[math.log(chance / (1 - chance)), math.log(0.295 / 0.705)]]]], dtype=torch.float64)
    meter.update(outputs, {"saliency": marked})
    assert meter.result().metrics["miou"] == 1
