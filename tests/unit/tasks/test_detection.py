"""Detection against torchvision's RetinaNet, which is written image by image, and against numbers by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import box_iou

from peftbench.contracts.backbones import images, installed, make
from peftbench.contracts.test_methods import fitting
from peftbench.foundation.errors import ConfigError, MissingInput
from peftbench.foundation.maps import BOXES
from peftbench.tasks.anchors import Detections, anchors_of, boxes_at, detected, detection_loss, matches, offsets_of
from peftbench.tasks.average_precision import average_precision
from peftbench.tasks.base import Classes
from peftbench.tasks.detection import Detection, DetectionMeter
from peftbench.tasks.detector import usual_channels
from peftbench.tasks.pyramid import FlatPyramid
from peftbench.train.options import TrainSpec

CLASSES = Classes(("a", "b", "c"))
SIZE = (64, 64)
ANCHORS = anchors_of([(8, 8), (4, 4)], SIZE, 2.0, torch.device("cpu"))


def random_boxes(count: int, most: int = 5) -> Tensor:
    """The last image has none, the second last box of the others is not asked for, the last row is empty."""
    generator = torch.Generator().manual_seed(1)
    corner, side = torch.rand(count, most, 2, generator=generator) * 40, torch.rand(count, most, 2, generator=generator)
    sides = torch.cat([corner, corner + 6 + 16 * side], dim=-1)
    number = torch.randint(3, (count, most, 1), generator=generator)
    boxes = torch.cat([sides, number, torch.zeros(count, most, 1)], dim=-1)
    boxes[:, -2, 5] = 1
    boxes[:, -1] = 0
    boxes[-1] = 0
    return boxes


def random_detections(count: int) -> Detections:
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(count, len(ANCHORS), 3, generator=generator) - 3
    return Detections(logits, torch.randn(count, len(ANCHORS), 4, generator=generator) / 4, ANCHORS, SIZE)


def found_rows(*rows: list[float]) -> np.ndarray:
    """An image's boxes, in an array with a row to spare."""
    return np.array([[*rows, [0.0] * 6]])


def test_anchors_lie_around_the_middle_of_their_cells() -> None:
    assert len(ANCHORS) == 9 * (64 + 16)
    sides = ANCHORS[:, 2:] - ANCHORS[:, :2]
    # cell (row 1, column 2) of the first grid has its middle at (20, 12)
    cell = ANCHORS[9 * (8 + 2) :][:9]
    np.testing.assert_allclose((cell[:, :2] + cell[:, 2:]) / 2, [[20, 12]] * 9, atol=1e-5)
    # twice 8 px, three sizes of each shape: wide, square, tall
    areas = [256, 256 * 2 ** (2 / 3), 256 * 2 ** (4 / 3)]
    np.testing.assert_allclose(sides[:9].prod(dim=1), areas * 3, rtol=1e-5)
    np.testing.assert_allclose(sides[:9, 1] / sides[:9, 0], np.repeat([0.5, 1, 2], 3), rtol=1e-5)
    np.testing.assert_allclose(sides[9 * 64 + 3], [32, 32], rtol=1e-5)


def test_offsets_by_hand_and_back() -> None:
    anchor, box = torch.tensor([10.0, 10, 30, 20]), torch.tensor([15.0, 10, 35, 40])
    said = offsets_of(box, anchor)
    np.testing.assert_allclose(said, [0.25, 1.0, 0.0, math.log(3)], rtol=1e-6)
    np.testing.assert_allclose(boxes_at(said, anchor), box, rtol=1e-6)


def test_loss_and_matches_are_those_of_torchvision() -> None:
    boxes, said = random_boxes(4), random_detections(4)
    head = RetinaNetHead(8, 9, 3)
    truth, matched = [], []
    for of_image in boxes:
        own = of_image[(of_image[:, 2] > of_image[:, 0]) & (of_image[:, 5] == 0)]
        truth.append({"boxes": own[:, :4], "labels": own[:, 4].long()})
        matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
        matched.append(matcher(box_iou(own[:, :4], ANCHORS)) if len(own) else torch.full((len(ANCHORS),), -1))
    outputs = {"cls_logits": said.logits, "bbox_regression": said.offsets}
    parts = head.compute_loss(truth, outputs, [ANCHORS] * 4, matched)
    torch.testing.assert_close(detection_loss(said, boxes).mean(), parts["classification"] + parts["bbox_regression"])
    _, stands, nothing = matches(ANCHORS, boxes)
    assert stands.any() and (~stands & ~nothing).any()
    assert (stands == (torch.stack(matched) >= 0)).all() and (nothing == (torch.stack(matched) == -1)).all()


def test_a_small_box_has_its_best_anchor() -> None:
    boxes = torch.tensor([[[5.0, 5.0, 7.0, 7.0, 1.0, 0.0]]])
    number, stands, nothing = matches(ANCHORS, boxes)
    assert stands.sum() >= 1 and (number[stands] == 0).all() and not (stands & nothing).any()


def test_boxes_found_are_those_of_torchvision() -> None:
    said = random_detections(3)
    detector = RetinaNet.__new__(RetinaNet)
    torch.nn.Module.__init__(detector)
    detector.score_thresh, detector.nms_thresh = 0.05, 0.5
    detector.topk_candidates, detector.detections_per_img = 1000, 100
    detector.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    outputs = {"cls_logits": [said.logits], "bbox_regression": [said.offsets]}
    expected = detector.postprocess_detections(outputs, [[ANCHORS]] * 3, [SIZE] * 3)
    for rows, theirs in zip(detected(said), expected, strict=True):
        mine = rows[rows[:, 5] > 0]
        assert len(mine) == len(theirs["scores"]) > 20
        torch.testing.assert_close(mine[:, 5], theirs["scores"])
        torch.testing.assert_close(mine[:, :4], theirs["boxes"], rtol=1e-4, atol=1e-4)
        assert (mine[:, 4] == theirs["labels"]).all()


def test_average_precision_by_hand() -> None:
    truth = found_rows([0, 0, 10, 10, 1, 0], [20, 20, 30, 30, 1, 0])
    right, wrong, late = [0, 0, 10, 10, 1, 0.9], [40, 40, 50, 50, 1, 0.8], [20, 20, 30, 30, 1, 0.7]
    scores = average_precision(truth, found_rows(right, wrong, late), CLASSES.class_names)
    # precision 1 up to a recall of a half, two thirds from there on; 51 of 101 recalls are at most a half
    expected = (51 + 50 * 2 / 3) / 101
    assert scores == pytest.approx({"ap": expected, "ap50": expected, "ap75": expected, "ar100": 1.0, "ap/b": expected})
    # what lies on something that is not asked for counts neither way
    truth = np.concatenate([truth, np.array([[[39, 39, 52, 52, 1, 1]]])], axis=1)
    assert average_precision(truth, found_rows(right, wrong, late), CLASSES.class_names)["ap"] == pytest.approx(1)


def test_the_overlap_decides_at_how_many_thresholds_a_box_is_right() -> None:
    truth = found_rows([0, 0, 10, 10, 0, 0])
    # 62 of 100
    scores = average_precision(truth, found_rows([0, 0, 10, 6.2, 0, 0.5]), CLASSES.class_names)
    assert (scores["ap"], scores["ap50"], scores["ap75"]) == pytest.approx((0.3, 1, 0))
    other = average_precision(truth, found_rows([0, 0, 10, 10, 2, 0.5]), CLASSES.class_names)
    assert other["ap"] == 0 and list(other)[-1] == "ap/a"


def test_without_boxes_there_is_nothing_to_find() -> None:
    nothing = np.zeros((2, 3, 6))
    assert average_precision(nothing, nothing, CLASSES.class_names)["ap"] == 0
    truth = np.concatenate([found_rows([0, 0, 4, 4, 0, 0]), np.zeros((1, 2, 6))])
    assert average_precision(truth, np.zeros((2, 5, 6)), CLASSES.class_names)["ap50"] == 0


def test_the_meter_counts_over_the_split_in_its_order() -> None:
    boxes, said = random_boxes(4), random_detections(4)
    meter = DetectionMeter(CLASSES.class_names)
    for rows in ([2, 3], [0, 1]):
        part = Detections(said.logits[rows], said.offsets[rows], ANCHORS, SIZE)
        meter.update(part, {BOXES: boxes[rows], "index": torch.tensor(rows)})
    measured = meter.result()
    assert measured.metrics["n"] == 4 and measured.predictions is not None
    np.testing.assert_array_equal(measured.predictions, detected(said).numpy())
    assert measured.metrics["loss"] == pytest.approx(float(detection_loss(said, boxes).mean()))
    expected = average_precision(boxes.numpy(), detected(said).numpy(), CLASSES.class_names)
    assert {name: measured.metrics[name] for name in expected} == expected


@pytest.mark.parametrize("backbone", ["vit_cls", "swin"])
def test_every_tensor_of_the_detector_learns(backbone: str) -> None:
    model = Detection(channels=8).model(make(backbone), CLASSES, 0).train()
    boxes = torch.tensor([[[2.0, 2, 20, 20, 1, 0]], [[8.0, 4, 30, 30, 2, 0]]])
    Detection().loss_fn(TrainSpec())(model, {"image": images(2), BOXES: boxes}).backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in model.head.parameters())
    said = model.eval()(images(2))
    assert said.size == (32, 32) and said.anchors[:, :2].min() < 0 < said.anchors.max()
    middles = (said.anchors[:, :2] + said.anchors[:, 2:]) / 2
    assert middles.min() > 0 and middles.max() < 32
    shown = Detection().maps_of(said)[BOXES]
    assert shown.shape == (2, 100, 6) and not shown[..., 5].any()


def test_all_levels_of_a_pyramid_that_a_method_makes_are_read() -> None:
    built = installed(fitting("vit_adapter"), "vit_cls")
    model = Detection(channels=8).model(built, CLASSES, 0).train()
    boxes = torch.tensor([[[2.0, 2, 20, 20, 1, 0]]])
    Detection().loss_fn(TrainSpec())(model, {"image": images(2), BOXES: boxes.expand(2, -1, -1)}).backward()
    assert all(tensor.grad is not None for name, tensor in model.added)


def test_widths_and_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [usual_channels(width) for width in (128, 384, 768, 2048)] == [64, 128, 256, 256]
    with pytest.raises(ConfigError, match=r"task\.channels must be a multiple of 32 .*, got 40"):
        Detection(channels=40)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingInput, match=r"pip install 'peftbench\[detection\]'"):
        Detection().prepare(make("vit_cls"), CLASSES)


def test_a_pyramid_needs_its_maps() -> None:
    with pytest.raises(ConfigError, match="made of 3 maps"):
        FlatPyramid([8, 8], 3)
    maps = [torch.randn(2, 8, 4, 4)] * 3
    assert [m.shape[-1] for m in FlatPyramid([8] * 3, 3)(maps)] == [8, 4, 2]
    assert sum(p.numel() for p in FlatPyramid([8] * 3, 3).parameters()) == 4 * 8 * 8 + 8
