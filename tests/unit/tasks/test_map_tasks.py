"""Depth, normals, edges and saliency against plain numpy statements, and several tasks at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.contracts.backbones import BUILDERS, images
from peftbench.foundation.errors import ConfigError, TrainingDiverged
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import TASKS, Classes
from peftbench.tasks.boundaries import boundaries, f_measure, matched, tolerance
from peftbench.tasks.dense import slide
from peftbench.tasks.depth import Depth, DepthMeter
from peftbench.tasks.marks import EDGE_THRESHOLDS, SALIENCY_THRESHOLDS, EdgeMeter, SaliencyMeter, balanced_loss
from peftbench.tasks.normals import Normals, NormalsMeter
from peftbench.tasks.segmentation import SegmentationMeter
from peftbench.tasks.several import KINDS, Several
from peftbench.train.batches import Batches
from peftbench.train.evaluate import Meter, evaluate
from peftbench.train.options import TrainSpec

RNG = np.random.default_rng(3)
N, H, W = 7, 12, 9


class Given(nn.Module):
    """What a model would say, given in the place of images."""

    def forward(self, said: torch.Tensor) -> torch.Tensor:
        return said


def measure(meter: Meter, said: np.ndarray, batch_size: int = 3, **truth: np.ndarray) -> Any:
    return evaluate(Given(), Batches({"image": said}, truth, batch_size=batch_size), meter).metrics


def directions() -> np.ndarray:
    raw = RNG.standard_normal((N, 3, H, W)).astype(np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def test_depth_errors_are_pooled_over_the_split() -> None:
    truth = RNG.uniform(0.2, 5, (N, H, W)).astype(np.float32)
    truth[RNG.random(truth.shape) < 0.2] = np.nan
    said = (np.nan_to_num(truth, nan=9.0) + RNG.normal(0, 0.6, truth.shape)).astype(np.float32)[:, None]
    found = measure(DepthMeter(), said, depth=truth)
    known = np.isfinite(truth)
    p, t = said[:, 0][known].astype(np.float64), truth[known].astype(np.float64)
    ratio = np.maximum(p, 1e-3) / t
    assert found["rmse"] == pytest.approx(np.sqrt(((p - t) ** 2).mean()), rel=1e-5)
    assert found["abs_rel"] == pytest.approx((np.abs(p - t) / t).mean(), rel=1e-5)
    assert found["log_rmse"] == pytest.approx(np.sqrt((np.log(ratio) ** 2).mean()), rel=1e-4)
    assert found["delta_1"] == pytest.approx((np.maximum(ratio, 1 / ratio) < 1.25).mean())
    assert found["loss"] == pytest.approx(np.abs(p - t).mean(), rel=1e-5) and found["n"] == N
    loss = Depth().loss_fn(TrainSpec())(Given(), {"image": torch.from_numpy(said), "depth": torch.from_numpy(truth)})
    assert loss.item() == pytest.approx(found["loss"], rel=1e-5)


def test_angles_between_normals() -> None:
    truth, said = directions(), 3 * directions()
    truth[:, :, 2, :4] = np.nan
    found = measure(NormalsMeter(), said, normals=truth)
    known = np.isfinite(truth).all(axis=1)
    unit = said / np.linalg.norm(said, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip((unit * truth).sum(1)[known], -1, 1)))
    assert found["mean_angle"] == pytest.approx(angles.mean(), rel=1e-4)
    assert found["median_angle"] == pytest.approx(np.median(angles), abs=0.3)
    assert found["rms_angle"] == pytest.approx(np.sqrt((angles**2).mean()), rel=1e-4)
    for most in (11.25, 22.5, 30):
        assert found[f"within_{most:g}"] == pytest.approx((angles < most).mean())
    loss = Normals().loss_fn(TrainSpec())(
        Given(), {"image": torch.from_numpy(said), "normals": torch.from_numpy(truth)}
    )
    assert loss.item() == pytest.approx(np.abs(unit - truth).transpose(0, 2, 3, 1)[known].mean(), rel=1e-4)


def test_opposite_normals_are_180_degrees_apart_and_equal_ones_none() -> None:
    truth = directions()
    assert measure(NormalsMeter(), -truth, normals=truth)["mean_angle"] == pytest.approx(180, abs=0.1)
    assert measure(NormalsMeter(), truth, normals=truth)["median_angle"] < 0.1


def test_the_sheets_balanced_loss() -> None:
    """One positive of four pixels, all logits 0: w = 0.75."""
    truth = torch.tensor([[[1, 0], [0, 0]]])
    assert balanced_loss(torch.zeros(1, 2, 2), truth).item() == pytest.approx(0.25993, abs=1e-5)
    fixed = (0.95 + 3 * 0.05) * math.log(2) / 4
    assert balanced_loss(torch.zeros(1, 2, 2), truth, 0.95).item() == pytest.approx(fixed)
    unknown = torch.tensor([[[1, 0], [0, 255]]])
    scores = torch.randn(1, 2, 2, requires_grad=True)
    balanced_loss(scores, unknown).backward()
    assert scores.grad is not None and scores.grad[0, 1, 1] == 0 and scores.grad[0, 0].all()
    assert balanced_loss(torch.randn(1, 2, 2), torch.full((1, 2, 2), 255)).item() == 0


def near(true: np.ndarray, distance: int) -> np.ndarray:
    """Pixels at most `distance` away from a true one, by looking at every pair."""
    found = np.zeros_like(true)
    for image, mask in zip(found, true, strict=True):
        rows, columns = np.nonzero(mask)
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                image[y, x] = ((rows - y) ** 2 + (columns - x) ** 2 <= distance**2).any()
    return found


@pytest.mark.parametrize("distance", [1, 2])
def test_boundaries_are_matched_within_a_distance(distance: int) -> None:
    said, true = RNG.random((3, H, W)) < 0.1, RNG.random((3, H, W)) < 0.1
    hits, predicted, found, all_true = matched(torch.from_numpy(said), torch.from_numpy(true), distance).tolist()
    assert (predicted, all_true) == (said.sum(), true.sum())
    assert (hits, found) == ((said & near(true, distance)).sum(), (true & near(said, distance)).sum())
    precision, recall = hits / predicted, found / all_true
    assert f_measure(np.array([hits, predicted, found, all_true])) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )
    assert tolerance((360, 480)) == round(0.0075 * 600) and tolerance((32, 32)) == 1


def test_where_classes_meet() -> None:
    classes = torch.tensor([[[0, 0, 1], [0, 0, 1], [2, 2, 2]]])
    known = torch.ones(1, 3, 3, dtype=torch.bool)
    assert boundaries(classes, known)[0].int().tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    known[0, 0, 2] = False
    assert boundaries(classes, known)[0].int().tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    scores = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float().numpy()
    assert measure(SegmentationMeter("abc"), scores, class_map=classes.numpy().astype(np.uint8))["boundary_f"] == 1


def test_edge_f_takes_one_threshold_for_the_whole_split() -> None:
    truth = (RNG.random((N, H, W)) < 0.15).astype(np.uint8)
    said = (2 * truth[:, None] - 1 + RNG.normal(0, 1.5, (N, 1, H, W))).astype(np.float32)
    truth[RNG.random(truth.shape) < 0.05] = 255
    found = measure(EdgeMeter(), said, edges=truth)
    chances, scores = 1 / (1 + np.exp(-said[:, 0].astype(np.float64))), []
    for most in EDGE_THRESHOLDS:
        marked, true = (chances > most) & (truth != 255), truth == 1
        precision = (marked & near(true, 1)).sum() / max(marked.sum(), 1)
        recall = (true & near(marked, 1)).sum() / true.sum()
        scores.append(2 * precision * recall / max(precision + recall, 1e-12))
    assert (
        found["edge_f"] == pytest.approx(max(scores)) and found["threshold"] == EDGE_THRESHOLDS[int(np.argmax(scores))]
    )


def test_saliency_as_its_literature_counts_it() -> None:
    truth = (RNG.random((N, H, W)) < 0.3).astype(np.uint8)
    said = (2 * truth[:, None] - 1 + RNG.normal(0, 2, (N, 1, H, W))).astype(np.float32)
    truth[RNG.random(truth.shape) < 0.05] = 255
    found = measure(SaliencyMeter(), said, saliency=truth)
    chances, f, iou = 1 / (1 + np.exp(-said[:, 0].astype(np.float64))), [], []
    for most in SALIENCY_THRESHOLDS:
        each = []
        for chance, true in zip(chances, truth, strict=True):
            marked, positive = (chance > most) & (true != 255), true == 1
            hits = (marked & positive).sum()
            each.append((hits / max(marked.sum(), 1), hits / positive.sum(), hits / (marked | positive).sum()))
        precision, recall, overlap = np.mean(each, axis=0)
        f.append(1.3 * precision * recall / (0.3 * precision + recall))
        iou.append(overlap)
    assert found["max_f"] == pytest.approx(max(f)) and found["miou"] == pytest.approx(max(iou))
    assert len(SALIENCY_THRESHOLDS) == 15 and (SALIENCY_THRESHOLDS[0], SALIENCY_THRESHOLDS[-1]) == (0.2, 0.9)


def test_an_image_in_which_nothing_stands_out() -> None:
    """ASTMT's rule: nothing found where nothing is overlaps wholly, while precision and recall are 0; all else is 0."""
    truth = np.zeros((2, H, W), np.uint8)
    truth[0, :2] = 1
    right = np.where(truth, 9.0, -9.0)[:, None].astype(np.float32)
    found = measure(SaliencyMeter(), right, saliency=truth)
    assert found["miou"] == 1 and found["max_f"] == pytest.approx(0.5)
    right[1, 0, 0, 0] = 9
    assert measure(SaliencyMeter(), right, saliency=truth)["miou"] == 0.5
    truth[1] = 255
    assert measure(SaliencyMeter(), right, saliency=truth)["miou"] == 1, "nothing is known of the second"


TRUTH = {
    "class_map": torch.randint(0, 4, (4, 32, 32)),
    "depth": torch.rand(4, 32, 32),
    "normals": torch.nn.functional.normalize(torch.randn(4, 3, 32, 32), dim=1),
    "edges": torch.randint(0, 2, (4, 32, 32)),
    "saliency": torch.randint(0, 2, (4, 32, 32)),
    "human_parts": torch.randint(0, 7, (4, 32, 32)),
}
CLASSES = Classes(tuple("abcd"))


@pytest.mark.parametrize("name", KINDS)
def test_every_task_trains_and_refuses_what_diverged(name: str) -> None:
    task, backbone = KINDS[name](), BUILDERS["vit_cls"]()
    assert TASKS.get(name) is KINDS[name] and TRUTH.keys() >= set(task.targets)
    install(METHODS.get("lora")(), backbone)
    model = task.model(backbone, CLASSES, 0).train()
    task.loss_fn(TrainSpec())(model, {"image": images(4), **TRUTH}).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.head.parameters())
    meter = task.meter(CLASSES)
    meter.update(torch.full((4, task.num_outputs(CLASSES), 32, 32), torch.nan), {**TRUTH, "index": torch.arange(4)})
    with pytest.raises(TrainingDiverged):
        meter.result()


def test_several_tasks_share_one_forward_pass_and_nothing_else() -> None:
    backbone = BUILDERS["vit_cls"]()
    install(METHODS.get("lora")(), backbone)
    task = Several(tasks=["depth", "normals"], weights=[2.0, 0.5])
    assert task.metric == Depth.primary.__class__("depth/rmse", "lower", "") and task.targets == ("depth", "normals")
    model = task.model(backbone, CLASSES, 5)
    other = Several(tasks=["normals", "segmentation", "depth"]).model(backbone, CLASSES, 5)
    for name in ("depth", "normals"):
        one, two = (m.head.get_submodule(name).state_dict() for m in (model, other))
        assert all(torch.equal(one[key], two[key]) for key in one), "a decoder has a stream of its own"
    passes = []
    handle = backbone.net.register_forward_hook(lambda *_: None)
    handle.remove()
    backbone.sites("block")[0].module.register_forward_hook(lambda *_: passes.append(1))
    outputs = model.eval()(images(4))
    assert len(passes) == 1 and {name: tuple(o.shape) for name, o in outputs.items()} == {
        "depth": (4, 1, 32, 32),
        "normals": (4, 3, 32, 32),
    }
    batch = {"image": images(4), **TRUTH, "index": torch.arange(4)}
    parts = {name: part.loss_fn(TrainSpec(), ("output",)) for name, part in task.parts.items()}
    expected = sum(
        weight * parts[name](Given(), batch | {"output": outputs[name]})
        for name, weight in (("depth", 2.0), ("normals", 0.5))
    )
    torch.testing.assert_close(task.loss_fn(TrainSpec())(model, batch), expected)
    meter, alone = task.meter(CLASSES), DepthMeter()
    meter.update(outputs, batch)
    alone.update(outputs["depth"], batch)
    metrics = meter.result().metrics
    assert metrics["depth/rmse"] == alone.result().metrics["rmse"] and metrics["n"] == 4
    assert "normals/mean_angle" in metrics and "n" not in {key.rpartition("/")[2] for key in metrics if "/" in key}


def test_wrong_choices_of_tasks_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Several(tasks=["depth"], weights=[1.0, 2.0])
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match=r"task\.tasks cannot be 'normal'; did you mean 'normals'"):
        Several(tasks=["depth", "normal"])


@pytest.mark.parametrize(("height", "width", "window"), [(20, 20, 20), (30, 41, 12), (13, 12, 12)])
def test_windows_that_slide_give_what_the_whole_gives(height: int, width: int, window: int) -> None:
    """A model that looks at one pixel at a time says the same by windows; an image of one window is seen once."""
    pixel = nn.Conv2d(3, 4, 1)
    whole = torch.randn(2, 3, height, width)
    shapes = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape[2:]))
        return pixel(x)

    with torch.no_grad():
        found, expected = slide(forward, (whole,), window), pixel(whole)
    torch.testing.assert_close(found, expected)
    assert set(shapes) == {(window, window)}
    if height == width == window:
        assert torch.equal(found, expected) and len(shapes) == 1
    if (height, width) == (30, 41):
        # rows at 0, 8, 16, 18 and columns at 0, 8, 16, 24, 29
        assert len(shapes) == 4 * 5


def test_windows_of_half_precision_are_summed_in_single_precision() -> None:
    """Four windows over a middle pixel: their mean is rounded once, by each window, and not again in the sum."""
    scores = iter(torch.tensor([1.0, 1.0078125, 1.0, 1.0078125, 1.0, 1.0078125, 1.0, 1.0, 1.0]).bfloat16())

    def forward(x: torch.Tensor) -> torch.Tensor:
        return next(scores).expand(1, 1, *x.shape[2:])

    found = slide(forward, (torch.zeros(1, 3, 14, 14),), 6)
    assert found.dtype == torch.float32
    # of windows that start at 0, 4 and 8 the first two of each axis overlap at 4: 1, 1.0078125, 1.0078125 and 1
    assert found[0, 0, 4, 4].item() == 1.00390625
    assert found[0, 0, 0, 4].item() == 1.00390625


@torch.no_grad()
def test_a_model_slides_over_larger_images_in_evaluation() -> None:
    backbone = BUILDERS["vit_cls"]()
    install(METHODS.get("linear")(), backbone)
    model = Several(tasks=["depth", "normals"]).model(backbone, CLASSES, 0).eval()
    large = torch.randn(2, 3, 32, 53)
    found = model(large)
    assert {name: tuple(o.shape) for name, o in found.items()} == {"depth": (2, 1, 32, 53), "normals": (2, 3, 32, 53)}
    torch.testing.assert_close(found["depth"][..., :21], model(large[..., :32])["depth"][..., :21])
    torch.testing.assert_close(found["depth"][..., 32:], model(large[..., 21:])["depth"][..., 11:])
    both = (model(large[..., :32])["depth"][..., 21:] + model(large[..., 21:])["depth"][..., :11]) / 2
    torch.testing.assert_close(found["depth"][..., 21:32], both)
