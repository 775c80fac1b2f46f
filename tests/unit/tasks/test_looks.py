"""A test at several scales: what is averaged, and that one look is no average."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.tasks.dense import MapTask
from peftbench.tasks.depth import Depth
from peftbench.tasks.looks import SeveralLooks
from peftbench.tasks.marks import Edges
from peftbench.tasks.normals import Normals
from peftbench.tasks.segmentation import Segmentation
from peftbench.tasks.several import Several


class Pointwise(nn.Module):
    """A model whose answer at a pixel depends on that pixel alone; it never sees less than `window` pixels."""

    window = 8

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Conv2d(3, channels, 1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape[-2:]))
        assert min(images.shape[-2:]) >= self.window
        out: Tensor = self.map(images)
        return out


def looks(task: MapTask, model: Any, scales: list[float], mirrored: bool = False) -> SeveralLooks:
    return SeveralLooks(model, task, scales, mirrored).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_one_look_says_what_the_model_says() -> None:
    model = Pointwise()
    found = looks(Segmentation(), model, [1.0])(images())
    torch.testing.assert_close(found.softmax(1), model(images()).softmax(1))
    torch.testing.assert_close(
        looks(Edges(), Pointwise(1), [1.0])(images()), Pointwise(1)(images()), rtol=1e-3, atol=1e-4
    )


def test_a_mirrored_look_is_turned_back() -> None:
    """A pointwise model says the same of a mirrored picture, so that the mean is what it says."""
    model = Pointwise()
    found = looks(Segmentation(), model, [1.0], mirrored=True)(images())
    torch.testing.assert_close(found.softmax(1), model(images()).softmax(1))
    # a normal seen in the mirror has the other x
    said, turned = F.normalize(model(images()), dim=1), looks(Normals(), model, [1.0], mirrored=True)(images())
    torch.testing.assert_close(turned[:, 0], torch.zeros_like(turned[:, 0]))
    torch.testing.assert_close(turned[:, 1:], said[:, 1:])


def test_probabilities_of_all_scales_are_averaged_at_the_size_of_the_image() -> None:
    model = Pointwise()
    found = looks(Segmentation(), model, [0.5, 1.0, 1.5])(images())
    # half of 12 pixels is less than the window: filled up, and cut off again
    assert model.seen == [(8, 8), (12, 12), (18, 18)]
    chances = []
    for size in (6, 12, 18):
        scores = model.map(F.interpolate(images(), (size, size), mode="bilinear"))
        chances.append(F.interpolate(scores, (12, 12), mode="bilinear").softmax(1))
    torch.testing.assert_close(found.softmax(1), torch.stack(chances).mean(0), rtol=1e-4, atol=1e-5)


def test_a_mirrored_look_at_less_than_a_window_stays_in_place() -> None:
    model = Pointwise()
    one, both = (looks(Segmentation(), model, [0.5], mirrored=flip)(images()) for flip in (False, True))
    torch.testing.assert_close(one, both, rtol=1e-4, atol=1e-5)


def test_depth_seen_enlarged_is_nearer() -> None:
    model = Pointwise(1)
    nn.init.zeros_(model.map.weight)
    nn.init.constant_(model.map.bias, 3.0)
    found = looks(Depth(), model, [1.0, 2.0])(images())
    assert found.unique().tolist() == [pytest.approx((3 + 2 * 3) / 2)]


def test_each_of_several_tasks_is_averaged_in_its_own_way() -> None:
    class Two(nn.Module):
        window = 8

        def forward(self, pixels: Tensor) -> dict[str, Tensor]:
            return {"depth": pixels[:, :1], "normals": pixels}

    found = looks(Several(tasks=["depth", "normals"]), Two(), [1.0], mirrored=True)(images())
    torch.testing.assert_close(found["depth"], images()[:, :1])
    assert not found["normals"][:, 0].any()
