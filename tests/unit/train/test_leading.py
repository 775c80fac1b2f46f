"""Which places may run for the leading tokens alone: what reads another token is found, by whatever way it reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.train.leading import leading_alone, reader

WIDTH, TOKENS = 8, 5
INPUTS = torch.randn(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
OTHER_SHAPE, COUNTS, NOT_RUN = "has another shape", "counts its tokens", "not run place by place"
NEEDS_ALL, READ = "needs all tokens", "other tokens of the last block are read as well"


class Net(nn.Module):
    """A place of a last block, called `place`, and how what it gives is pooled."""

    def __init__(self, place: nn.Module, pooled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.place, self.pooled = place, pooled

    def forward(self, tokens: Tensor) -> Tensor:
        return self.pooled(tokens + self.place(tokens))


class Place(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, tokens: Tensor) -> Tensor:
        return self.call(tokens)


def first(tokens: Tensor) -> Tensor:
    return tokens[:, 0]


def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(batch["image"]).square().sum()
    return loss


def read_by(net: Net, loss: Callable[..., Tensor] = loss_fn, places: Any = None) -> str:
    return reader(places or [net.place], 1, net, loss, {"image": INPUTS}, ("image",), "fp32")


def test_a_place_that_takes_each_token_by_itself_runs_for_the_one_that_is_read() -> None:
    seen: list[tuple[int, ...]] = []
    mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))
    mlp[0].register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    net = Net(mlp, first)
    assert read_by(net) == ""
    whole = torch.autograd.grad(loss_fn(net, {"image": INPUTS}), tuple(net.parameters()))
    seen.clear()
    with leading_alone([mlp], 1):
        cut = torch.autograd.grad(loss_fn(net, {"image": INPUTS}), tuple(net.parameters()))
        out = mlp(INPUTS)
    assert seen == [(3, 1, WIDTH), (3, 1, WIDTH)]
    assert out.shape == INPUTS.shape and not out[:, 1:].any()
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(mlp(INPUTS)[:, 1:], mlp(INPUTS[:, 1:])), "behind, the whole place runs"


@pytest.mark.parametrize(
    "pooled",
    [
        lambda tokens: tokens.mean(1),
        lambda tokens: tokens[:, 0] + 0.0 * tokens[:, 1:].sum(1),
        lambda tokens: tokens.amax(1),
        lambda tokens: tokens[:, 0] + tokens[:, 1:].nan_to_num(0.0).sum(1),
        lambda tokens: torch.where(tokens[:, 1] > 0.5, tokens[:, 0], -2 * tokens[:, 0]),
    ],
    ids=["mean", "behind a gate of zero", "largest", "without NaN", "compared"],
)
def test_readers_of_other_tokens_are_found(pooled: Callable[[Tensor], Tensor]) -> None:
    assert read_by(Net(nn.Linear(WIDTH, WIDTH), pooled)) == READ


def test_a_loss_that_reads_what_the_output_does_not_is_found() -> None:
    net = Net(nn.Linear(WIDTH, WIDTH), first)
    read: list[Tensor] = []
    net.place.register_forward_hook(lambda module, inputs, output: read.append(output))

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        return loss_fn(model, batch) + 0.0 * read[-1].sum()

    assert read_by(net) == ""
    assert read_by(net, loss) == READ


def test_a_loss_that_bears_no_nan_reads_what_is_spoilt() -> None:
    """Such as a matching of boxes, which refuses it; nothing of that leaves the cell."""

    def chosen(tokens: Tensor) -> Tensor:
        if not tokens.isfinite().all():
            raise ValueError("matrix contains invalid numeric entries")
        return tokens[:, 0]

    assert read_by(Net(nn.Linear(WIDTH, WIDTH), chosen)) == READ


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda tokens: tokens + 0.0 * tokens.mean(1, keepdim=True), READ),
        (lambda tokens: tokens.cumsum(1), ""),
        (lambda tokens: tokens * tokens.shape[1], COUNTS),
        (lambda tokens: tokens + torch.ones(TOKENS, WIDTH)[: tokens.shape[1]], ""),
        (lambda tokens: tokens.view(-1, TOKENS, WIDTH), NEEDS_ALL),
    ],
    ids=["mixes", "looks back", "counts", "has a number for each place", "wants all"],
)
def test_places_that_do_more_than_take_each_token_by_itself(call: Callable[[Tensor], Tensor], why: str) -> None:
    assert (why in read_by(Net(Place(call), first))) if why else (read_by(Net(Place(call), first)) == "")


def test_places_that_are_not_run_or_given_something_else_are_said() -> None:
    net = Net(nn.Linear(WIDTH, WIDTH), first)
    assert NOT_RUN in read_by(net, places=[nn.Linear(WIDTH, WIDTH)])
    flat = Net(Place(lambda tokens: tokens), first)
    assert OTHER_SHAPE in reader([flat.place], TOKENS, flat, loss_fn, {"image": INPUTS}, ("image",), "fp32")


def test_looking_changes_nothing() -> None:
    net = Net(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)), first).eval()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert read_by(net) == ""
    assert torch.equal(torch.rand(1), expected) and not net.training
    assert all(tensor.grad is None for tensor in net.parameters())
    assert not net.place._forward_hooks and not net.place._forward_pre_hooks
