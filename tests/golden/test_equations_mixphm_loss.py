"""MixPHM's redundancy loss, written out as the release has it: by sequences cut to their length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.contracts.backbones import PAIR, images, make
from peftbench.interventions.redundancy import redundancy
from peftbench.methods.base import METHODS, install
from peftbench.methods.mixphm import MixedBottleneck
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.base import Classes
from peftbench.tasks.model import TaskModel
from peftbench.tasks.vqa import VQA
from peftbench.train.blocks import recomputed
from peftbench.train.options import TrainSpec


def released(added: list[Tensor], x: list[Tensor]) -> Tensor:
    """Of sequences [tokens, width] without padding."""
    u, v = (F.normalize(torch.cat(rows), dim=1) for rows in (added, x))
    products = u.T @ v
    width = len(products)
    off = sum((products[i, j] ** 2 for i in range(width) for j in range(width) if i != j), torch.zeros(()))
    return 3.9e-3 * off / len(added)


def test_rows_have_length_1_and_padding_is_left_out() -> None:
    torch.manual_seed(0)
    added, x, lengths = torch.randn(3, 5, 4).double(), torch.randn(3, 5, 4).double(), torch.tensor([5, 2, 3])
    cut = [[rows[: lengths[number]] for number, rows in enumerate(both)] for both in (added, x)]
    torch.testing.assert_close(redundancy(added, x, lengths), released(*cut).double(), rtol=1e-12, atol=0)
    whole = redundancy(added, x)
    torch.testing.assert_close(whole, released(list(added), list(x)).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(redundancy(added.unflatten(1, (5, 1)), x.unflatten(1, (5, 1))), whole)


def answering(towers: list[str]) -> tuple[TaskModel, dict[str, Tensor]]:
    pair = make(PAIR)
    method = METHODS.get("mixphm")(towers=towers, bottleneck=8, rank=2, dropout=0.0)
    install(method, pair)
    model = VQA().model(pair, Classes(("yes", "no", "two")), 0)
    OBJECTIVES.get("mixphm")().install(model, torch.nn.Module())
    texts = pair.written([["red circle"], ["blue"], ["a photo of a green star"], ["three"]]).long()  # type: ignore[operator]
    answers = torch.tensor([[0] * 10, [1] * 10, [2] * 10, [0] * 10])
    return model.train(), {"image": images(4), "text": texts, "answers": answers}


@pytest.mark.parametrize("towers", [["text"], ["image", "text"]])
def test_questions_are_trained_with_the_mean_over_towers_and_adapters(towers: list[str]) -> None:
    model, batch = answering(towers)
    base = VQA().loss_fn(TrainSpec(), model.inputs)
    seen: dict[MixedBottleneck, tuple[Tensor, Tensor]] = {}
    for adapter in model.backbone.all_of(MixedBottleneck):
        adapter.register_forward_hook(lambda module, given, out: seen.update({module: (out, given[0])}))  # type: ignore[arg-type]
    torch.manual_seed(1)
    expected = base(model, batch)
    grid = 16
    ends = batch["text"][:, 0].argmax(dim=1)
    means = []
    for name in towers:
        tower = model.backbone.towers[name]
        # the text tower reads the image's tokens ahead of a question, and its end token is no padding
        lengths = [grid + int(end) + 1 if name == "text" else 10**6 for end in ends]
        pairs = [seen[adapter] for adapter in tower.all_of(MixedBottleneck)]
        each = [released(*([r[:n] for r, n in zip(rows, lengths, strict=True)] for rows in pair)) for pair in pairs]
        means.append(torch.stack(each).mean())
    expected = expected + 0.2 * torch.stack(means).mean()
    torch.manual_seed(1)
    loss = OBJECTIVES.get("mixphm")().loss_fn(model, base)(model, batch)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    plain = {name: tensor.grad.clone() for name, tensor in model.added if tensor.grad is not None}
    model.zero_grad()
    blocks = [site.module for tower in towers for site in model.backbone.towers[tower].sites("block")]
    torch.manual_seed(1)
    with recomputed(blocks):
        OBJECTIVES.get("mixphm")().loss_fn(model, base)(model, batch).backward()
    assert plain and all(torch.allclose(tensor.grad, plain[name], atol=1e-6) for name, tensor in model.added)
