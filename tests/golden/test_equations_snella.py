"""SNELLA: its kernel on one ViT block, the scores it keeps and how entries are shared out, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.adapters.file import adapter_tensors, load_adapter
from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.interventions.kernels import CompetingKernel, allotted
from peftbench.methods.base import METHODS, install
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from tests.golden.test_equations import LAYER, WIDTH
from tests.golden.test_equations_lowrank import OUT, agrees, frozen, moved, own


def kernels(backbone: Backbone) -> list[CompetingKernel]:
    return [module for module in backbone.modules() if isinstance(module, CompetingKernel)]


@pytest.mark.parametrize("threshold", ["soft", "released"])
def test_the_kernel_adds_a_softmax_over_outputs_and_thresholds_the_sum(threshold: str) -> None:
    backbone, new = moved("snella", rank=4, threshold=threshold, targets=["q", "v"]), {}
    for part in ("q", "v"):
        name = f"deltas.{OUT[part]}.delta"
        kernel: Any = backbone.get_submodule(f"net.blocks.{LAYER}.attn.qkv.{name}")
        kernel.left_out.fill_(0.7)
        inner, outer, alpha, gamma, beta = (
            own(backbone, f"{name}.{tensor}") for tensor in ("inner", "outer", "alpha", "gamma", "beta")
        )
        dense = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
        for i in range(WIDTH):
            row = torch.stack(
                [0.1 * ((inner[0, i] - outer[0, o]).norm() - (inner[1, i] - outer[1, o]).norm()) for o in range(WIDTH)]
            )
            powers = torch.exp(row / gamma)
            dense[:, i] = row + alpha * powers / powers.sum() + beta
        limit = torch.quantile(dense.abs(), 0.7)
        kept = dense.abs() > limit
        assert abs(kept.double().mean() - 0.3) < 1e-3
        delta = {"soft": dense.sign() * (dense.abs() - limit), "released": dense * dense.abs()}[threshold]
        new[part] = frozen(part) + torch.where(kept, delta, 0.0)
    agrees(backbone, new)


@pytest.mark.parametrize(
    ("scores", "most", "budget", "shares"),
    [
        # the first takes 10 of its 30, the rest goes to the others as 3 to 2
        ([0.5, 0.3, 0.2], [10, 100, 100], 60, [10, 30, 20]),
        ([0.5, 0.5, 0.0], [10, 10, 100], 60, [10, 10, 40]),
        ([0.0, 0.0], [100, 100], 50, [25, 25]),
        ([0.9, 0.1], [10, 10], 20, [10, 10]),
    ],
)
def test_entries_are_shared_out_by_score_up_to_what_a_matrix_has(
    scores: list[float], most: list[int], budget: int, shares: list[int]
) -> None:
    found = allotted(torch.tensor(scores).double(), torch.tensor(most).double(), budget)
    # whole entries, of round shares that rounding may miss by one
    assert (found - torch.tensor(shares)).abs().max() <= 1 and found.sum() <= budget


def trained() -> tuple[Classifier, Any, Any]:
    """The model in double precision, its objective and the loss that it gives."""
    backbone = make("vit_cls")
    install(METHODS.get("snella")(rank=2, dropout=0.0, drop_path=0.0), backbone)
    model = Classifier(backbone, 5, seed=0).double()
    objective = OBJECTIVES.get("snella")(sparsity=0.6, keep_mean=0.8, keep_spread=0.7)
    objective.install(model, nn.Module())
    return model.train(), objective, objective.loss_fn(model, classification_loss())


def test_scores_are_means_of_sensitivity_times_spread_and_say_how_many_entries_are_kept() -> None:
    model, objective, loss_fn = trained()
    mean: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        batch = {"image": images(4).double() + torch.randn(1, generator=generator), "label": torch.tensor([0, 3, 1, 4])}
        model.zero_grad()
        loss_fn(model, batch).backward()
        for name, factor in model.named_parameters():
            if name.endswith(("inner", "outer")) and factor.grad is not None:
                sensitivity = (factor * factor.grad).abs().detach()
                mean[name] = 0.8 * mean.get(name, 0) + 0.2 * sensitivity
                spread[name] = 0.7 * spread.get(name, 0) + 0.3 * (sensitivity - mean[name]).abs()
    scores = [
        sum(float((mean[f"{name}.{part}"] * spread[f"{name}.{part}"]).mean()) for part in ("inner", "outer"))
        for name, module in model.named_modules()
        if isinstance(module, CompetingKernel)
    ]
    own = kernels(model.backbone)
    assert len(scores) == len(own) == 18
    torch.testing.assert_close(torch.stack([kernel.score() for kernel in own]), torch.tensor(scores).double())
    objective.after_epoch(model, 0.25)
    left_out = 0.6 + (0.01 - 0.6) * 0.75**3
    entries = torch.tensor([kernel.entries for kernel in own]).double()
    kept = (1 - torch.stack([kernel.left_out for kernel in own])) * entries
    assert abs(kept.sum() - (1 - left_out) * entries.sum()) < len(own) + 1
    free = kept < entries
    ratio = kept[free] / torch.tensor(scores).double()[free]
    assert free.sum() > 3 and ratio.max() / ratio.min() < 1.05


def test_a_pass_whose_gradients_overflow_is_not_counted() -> None:
    """As in fp16, whose losses are scaled by what turns out to be too much; the share of the next epoch stays sound."""
    model, objective, loss_fn = trained()
    batch = {"image": images(4).double(), "label": torch.tensor([0, 3, 1, 4])}
    loss_fn(model, batch).backward()
    before = [kernel.score() for kernel in kernels(model.backbone)]
    model.zero_grad()
    (loss_fn(model, batch) * 1e308 * 1e10).backward()
    assert any(not factor.grad.isfinite().all() for factor in model.parameters() if factor.grad is not None)
    torch.testing.assert_close([kernel.score() for kernel in kernels(model.backbone)], before, rtol=0, atol=0)
    objective.after_epoch(model, 0.5)
    assert all(0 <= float(kernel.left_out) <= 1 for kernel in kernels(model.backbone))


def test_what_was_measured_behind_the_last_epoch_stays() -> None:
    model, objective, _ = trained()
    before = [kernel.left_out.clone() for kernel in kernels(model.backbone)]
    objective.after_epoch(model, 1.0)
    assert all(torch.equal(a, kernel.left_out) for a, kernel in zip(before, kernels(model.backbone), strict=True))
    objective.after_epoch(model, 0.5)
    # nothing was felt yet: each matrix as much of the budget as any other
    assert not all(torch.equal(a, kernel.left_out) for a, kernel in zip(before, kernels(model.backbone), strict=True))


def test_how_many_entries_are_kept_is_part_of_the_adapter() -> None:
    model, objective, _ = trained()
    objective.after_epoch(model, 0.5)
    other = trained()[0]
    load_adapter(other, adapter_tensors(model, []), Path("adapter.safetensors"))
    kept = zip(kernels(model.backbone), kernels(other.backbone), strict=True)
    assert all(torch.equal(mine.left_out, its.left_out) for mine, its in kept)
    assert torch.equal(model.eval()(images(2).double()), other.eval()(images(2).double()))
