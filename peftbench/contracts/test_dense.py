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
from peftbench.contracts.backbones import images, make
from peftbench.contracts.test_methods import check_gradients, default_refusal, fitting, nudge
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes
from peftbench.tasks.segmentation import Segmentation
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
    return backbones.installed(fitting(name), backbone)


@torch.no_grad()
def maps_of(built: Backbone, pixels: Tensor) -> list[Tensor]:
    return feature_maps(built.eval(), (pixels,), taps_of(built, 3).layers)


@on_both
@on_methods
def test_a_refusal_of_maps_says_why_in_one_line(name: str, backbone: str) -> None:
    reason = refusal(name, backbone)
    assert not reason or (len(reason.split()) >= 4 and "\n" not in reason)
    # on a plain transformer all methods attach, and one has features that belong to no pixel
    assert bool(reason) == (name == "vqt") or backbone != "vit_cls" or METHODS.get(name).__module__[:10] != "peftbench."


@on_both
@on_methods
def test_every_trainable_tensor_gets_a_gradient_from_the_pixels_and_no_other(name: str, backbone: str) -> None:
    built = nudge(ready(name, backbone))
    model = Segmentation(num_maps=3).model(built, CLASSES, 0).train()
    truth = torch.arange(4 * 32 * 32).view(4, 32, 32) % 3
    Segmentation().loss_fn(TrainSpec())(model, {"image": images(4), "class_map": truth}).backward()
    check_gradients(built, fitting(name).inert(built))
    assert model.eval()(images(2)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", [name for name in METHODS.names() if METHODS.get(name).observes])
def test_methods_that_look_first_look_at_maps_or_say_that_they_need_classes(name: str) -> None:
    method, backbone = fitting(name), make("vit_cls")
    if method.by_class:
        pytest.skip("a cell with maps answers for it")
    task = Segmentation(num_maps=3)
    with seeded(0, "observe"):
        found = method.observe(random_evidence(backbone, task=task))
    install(method, backbone, 0, found)
    assert task.model(backbone, CLASSES, 0)(images(2)).shape == (2, 3, 32, 32)


@on_both
@on_methods
def test_maps_lie_where_the_pixels_are(name: str, backbone: str) -> None:
    """One patch is changed: the earliest map changes most at its place. Unchanged methods give the backbone's maps."""
    built = ready(name, backbone)
    pixels = images(2)
    other = pixels.clone()
    other[:, :, 8:16, 16:24] += torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    before, after = maps_of(built, pixels)[0], maps_of(built, other)[0]
    change = (after - before).square().sum(dim=1)
    size = change.shape[1]
    for image in change:
        row, column = divmod(int(image.argmax()), size)
        assert (row * 4 // size, column * 4 // size) == (1, 2), "the maps are scrambled"
    if METHODS.get(name).identity_at_init:
        for mine, bare in zip(maps_of(built, pixels), maps_of(make(backbone), pixels), strict=True):
            torch.testing.assert_close(mine, bare, rtol=1e-5, atol=1e-5)
