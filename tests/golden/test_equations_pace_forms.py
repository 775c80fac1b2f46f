"""PACE's lazy and fast forms, step by step, against plain tensor code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor
from torch.nn import functional as F

from peftbench.cells.train import against_capture_of_steps
from peftbench.contracts.backbones import make
from peftbench.contracts.test_objectives import CLASSES, build, nudge
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.identity import fingerprint
from peftbench.interventions.noise import SharedDropPath
from peftbench.objectives.base import install, prepare
from peftbench.objectives.pace import PACE
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from tests.golden.test_equations_objectives import noisy_vit

SIGMAS = [0.0, 0.9, 0.6, 0.3]
IMAGES = torch.randn(7, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 3, 1, 4, 2, 0, 4])


def model_under(objective: PACE, num_images: int = len(IMAGES)) -> Any:
    options = {"sigma": 0.9, "form": objective.form, "interval": objective.interval}
    model: Any = nudge(build("lora_vpt", "pace", **options)[0]).double().train()
    objective.before_training(model, num_images)
    return model


def batch_of(index: list[int], step: int) -> dict[str, Tensor]:
    at = torch.tensor(index)
    return {"image": IMAGES[at], "label": LABELS[at], "index": at, "step": torch.full_like(at, step)}


def cross_entropy(logits: Tensor, index: list[int]) -> Tensor:
    return F.cross_entropy(logits, LABELS[index])


@torch.no_grad()
def test_lazy_compares_in_every_third_step_on_half_of_the_batch_alone() -> None:
    objective = PACE(weight=0.7, sigma=0.9, form="lazy", interval=3)
    model = model_under(objective)
    loss_fn = objective.loss_fn(model, classification_loss())
    index = [4, 0, 6, 2, 5]
    for step in range(7):
        torch.manual_seed(step)
        if step in (0, 3, 6):
            half = IMAGES[[4, 0]]
            z, other = noisy_vit(model, torch.cat([half, half]), SIGMAS).chunk(2)
            expected = cross_entropy(z, [4, 0]) + 0.7 * ((z - other) ** 2).sum() / 2
        else:
            expected = cross_entropy(noisy_vit(model, IMAGES[index], SIGMAS), index)
        torch.manual_seed(step)
        torch.testing.assert_close(loss_fn(model, batch_of(index, step)), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_lazy_keeps_one_image_of_a_batch_of_one() -> None:
    objective = PACE(weight=0.7, sigma=0.9, form="lazy")
    model = model_under(objective)
    torch.manual_seed(0)
    z, other = noisy_vit(model, IMAGES[[3, 3]], SIGMAS)
    expected = cross_entropy(z[None], [3]) + 0.7 * ((z - other) ** 2).sum()
    torch.manual_seed(0)
    loss = objective.loss_fn(model, classification_loss())(model, batch_of([3], step=0))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_fast_compares_with_what_the_image_gave_when_it_was_last_seen() -> None:
    """Zeros at first; images 5 and 6 are left out of the second epoch, so that the third has those of the first."""
    objective = PACE(weight=0.7, sigma=0.9, form="fast")
    model = model_under(objective)
    loss_fn = objective.loss_fn(model, classification_loss())
    kept = torch.zeros(7, CLASSES, dtype=torch.float64)
    epochs = [[[3, 1, 6], [0, 5, 2], [4]], [[0, 2, 4], [1, 3]], [[6, 5, 4], [3, 2, 1], [0]]]
    for step, index in enumerate(index for epoch in epochs for index in epoch):
        weight = model.head.weight
        torch.manual_seed(step)
        z = noisy_vit(model, IMAGES[index], SIGMAS)
        expected = cross_entropy(z, index) + 0.7 * ((z - kept[index]) ** 2).sum() / len(index)
        kept[index] = z.detach()
        torch.manual_seed(step)
        loss = loss_fn(model, batch_of(index, step))
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
        (found,), (wanted,) = (torch.autograd.grad(value, weight) for value in (loss, expected))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        # the network moves between two steps
        with torch.no_grad():
            weight += 0.01 * torch.linspace(-1, 1, weight.numel()).view_as(weight)


def test_one_copy_of_an_image_has_a_draw_of_its_own() -> None:
    drop = SharedDropPath(0.5).train()
    drop.copies = 1
    x = torch.randn(64, 3, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    mask = torch.empty(64, 1, 1).bernoulli_(0.5)
    torch.manual_seed(0)
    torch.testing.assert_close(drop(x), x * mask / mask.mean())
    assert 0 < mask[:32].sum() != mask[32:].sum() > 0


@torch.no_grad()
@pytest.mark.parametrize(("form", "copies"), [("full", [2, 2, 2, 2]), ("lazy", [2, 1, 1, 2]), ("fast", [1, 1, 1, 1])])
def test_stochastic_depth_is_told_how_many_copies_a_step_has(form: str, copies: list[int]) -> None:
    objective = PACE(form=form, interval=3 if form == "lazy" else 2)
    backbone = make("vit_cls")
    blocks: Any = backbone.net.blocks
    blocks[1].drop_path1 = DropPath(0.5)
    own = prepare(objective, backbone, CLASSES, 0)
    model = Classifier(backbone, CLASSES, 0).double().train()
    install(objective, model, own.double(), CLASSES)
    objective.before_training(model, len(IMAGES))
    loss_fn = objective.loss_fn(model, classification_loss())
    seen = []
    blocks[1].drop_path1.register_forward_hook(lambda drop, inputs, _: seen.append((drop.copies, len(inputs[0]))))
    for step in range(4):
        loss_fn(model, batch_of([4, 0, 6, 2], step))
    sizes = {"full": [8] * 4, "lazy": [4] * 4, "fast": [4] * 4}[form]
    assert seen == list(zip(copies, sizes, strict=True))


def test_the_default_form_is_the_cell_it_was() -> None:
    assert PACE().identity() == {"weight": 1.0, "sigma": 1.2} and PACE().label == "pace"
    named = [PACE(form="lazy"), PACE(form="lazy", interval=3), PACE(form="fast")]
    assert len({fingerprint(objective.identity()) for objective in [PACE(), *named]}) == 4
    assert named[1].label == "pace (form=lazy, interval=3)"


@pytest.mark.parametrize("form", ["full", "fast"])
def test_an_interval_without_lazy_is_refused(form: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.interval is of objective\.form=lazy, which is {form}"):
        PACE(form=form, interval=5)


def test_a_cell_says_why_lazy_steps_are_not_captured() -> None:
    def why(objective: PACE) -> str:
        cell: Any = SimpleNamespace(objective=objective)
        return against_capture_of_steps(cell)

    assert why(PACE(form="lazy")) == "objective pace (form=lazy) takes another path in some steps"
    assert why(PACE()) == why(PACE(form="fast")) == ""


def test_the_kept_logits_are_no_part_of_the_model_that_is_saved() -> None:
    model = model_under(PACE(sigma=0.9, form="fast"), num_images=9)
    assert model.last_logits.logits.shape == (9, CLASSES)
    assert not [name for name in model.state_dict() if "last_logits" in name]
