"""The contract every method keeps under tasks that predict maps: the right shape, in place, and trained to the last
tensor.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import feature_maps, taps_of
from peftbench.cells.evidence import random_evidence
from peftbench.contracts import backbones
from peftbench.contracts.backbones import images, make, suited
from peftbench.contracts.test_methods import check_gradients, default_refusal, fitting, nudge
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes
from peftbench.tasks.dense import MapTask
from peftbench.tasks.segmentation import Segmentation
from peftbench.tasks.several import Several
from peftbench.train.options import TrainSpec

CLASSES = Classes(("a", "b", "c"))
on_both = pytest.mark.parametrize("backbone", ["vit_cls", "swin"])
# maps are of images, methods across frames for clips
on_methods = pytest.mark.parametrize(
    "name", [n for n in METHODS.names() if not (METHODS.get(n).mixes_time or METHODS.get(n).of_pairs)]
)


@cache
def refusal(name: str, backbone: str) -> str:
    """Why there are no maps, or nothing."""
    backbone = suited(METHODS.get(name), backbone)
    if reason := default_refusal(name, backbone):
        return reason
    try:
        taps_of(backbones.installed(fitting(name), backbone), 3)
    except NotApplicable as error:
        return str(error) or "refused without a reason"
    return ""


def ready(name: str, backbone: str) -> Backbone:
    if reason := refusal(name, backbone):
        pytest.skip(reason)
    return backbones.installed(fitting(name), suited(METHODS.get(name), backbone))


def task_of(backbone: Backbone) -> MapTask:
    if backbone.shape.tasks == 1:
        return Segmentation(num_maps=3)
    return Several(tasks=["segmentation", "depth"], num_maps=len(backbone.shape.tapped))


def truth(count: int) -> dict[str, Tensor]:
    class_map = torch.arange(count * 32 * 32).view(count, 32, 32) % 3
    return {"image": images(count), "class_map": class_map, "depth": class_map / 2}


@torch.no_grad()
def maps_of(built: Backbone, pixels: Tensor) -> list[Tensor]:
    return feature_maps(built.eval(), (pixels,), built.shape.tapped or taps_of(built, 3).layers)


@on_both
@on_methods
def test_a_refusal_of_maps_says_why_in_one_line(name: str, backbone: str) -> None:
    reason = refusal(name, backbone)
    assert not reason or (len(reason.split()) >= 4 and "\n" not in reason)
    # on a plain transformer all methods attach, and a few have features that belong to no pixel
    shipped = METHODS.get(name).__module__.startswith("peftbench.")
    expected = name in ("vqt", "synqt", "fpet", "head2toe", "sparse_tuning")
    assert bool(reason) == expected or backbone != "vit_cls" or not shipped


@on_both
@on_methods
def test_every_trainable_tensor_gets_a_gradient_from_the_pixels_and_no_other(name: str, backbone: str) -> None:
    built = nudge(ready(name, backbone))
    task = task_of(built)
    model = task.model(built, CLASSES, 0).train()
    task.loss_fn(TrainSpec())(model, truth(4)).backward()
    check_gradients(built, fitting(name).inert(built))
    said = task.maps_of(model.eval()(images(2)))
    assert said["class_map"].shape == (2, 32, 32) and all(len(found) == 2 for found in said.values())


@pytest.mark.parametrize("name", [name for name in METHODS.names() if METHODS.get(name).observes])
def test_methods_that_look_first_look_at_maps_or_say_that_they_need_classes(name: str) -> None:
    method, backbone = fitting(name), make(suited(METHODS.get(name), "vit_cls"))
    if method.by_class:
        pytest.skip("a cell with maps answers for it")
    task = task_of(backbone)
    with seeded(0, "observe"):
        found = method.observe(random_evidence(backbone, task=task))
    install(method, backbone, 0, found)
    assert task.maps_of(task.model(backbone, CLASSES, 0)(images(2)))["class_map"].shape == (2, 32, 32)


@on_both
@on_methods
def test_maps_lie_where_the_pixels_are(name: str, backbone: str) -> None:
    """One patch is changed: the earliest map changes most at its place. Unchanged methods give the backbone's maps."""
    built = ready(name, backbone)
    if name == "dyt":
        pytest.skip("a patch elsewhere whose gate turns changes more than the one whose pixels do")
    pixels = images(2)
    other = pixels.clone()
    other[:, :, 8:16, 16:24] += torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    before, after = maps_of(built, pixels)[0], maps_of(built, other)[0]
    change = (after - before).square().sum(dim=1)
    assert len(change) == len(pixels) * built.shape.tasks
    size = change.shape[1]
    for image in change:
        row, column = divmod(int(image.argmax()), size)
        assert (row * 4 // size, column * 4 // size) == (1, 2), "the maps are scrambled"
    if METHODS.get(name).identity_at_init:
        plain = feature_maps(make(backbone), (pixels,), built.shape.tapped or taps_of(built, 3).layers)
        for mine, bare in zip(maps_of(built, pixels), plain, strict=True):
            expected = bare.repeat(len(mine) // len(bare), 1, 1, 1)
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
