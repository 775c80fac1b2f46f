"""What the PEFT library leaves out in training and puts back onto a ball: with the same draws, the same to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images
from tests.golden.test_against_peft import ALL, CASES, THEIR_ALL, loss, name_in_library, ours, theirs

pytest.importorskip("peft")

# of several cases of one tuner the first, whose tensors are those of `SIZES`
NAMES = {config: names for _, _, config, _, names in reversed(CASES)}
# method, its options, the library's config, its options
TRAINED: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    *[
        (name, dropped | scale, config, dropped | their_scale)
        for dropped in ({"rank_dropout": 0.4}, {"module_dropout": 0.5}, {"rank_dropout": 0.4, "module_dropout": 0.5})
        for name, config, scale, their_scale in (
            ("loha", "LoHaConfig", {}, {}),
            ("lokr", "LoKrConfig", {}, {}),
            *([("lokr", "LoKrConfig", *[{"rank_dropout_scale": True}] * 2)] if "rank_dropout" in dropped else []),
        )
    ],
    ("oft", {"coft": True, "eps": 0.4}, "OFTConfig", {"coft": True, "eps": 0.4, "use_cayley_neumann": False}),
    *[
        ("boft", {"num_factors": factors, "block_dropout": 0.5}, "BOFTConfig", {"boft_dropout": 0.5})
        for factors in (1, 3)
    ],
]
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "loha": ({"rank": 3, "alpha": 6.0}, {"r": 3, "alpha": 6}),
    "lokr": ({"rank": 2, "alpha": 6.0}, {"r": 2, "alpha": 6}),
    "oft": ({"block_size": 8}, {"oft_block_size": 8}),
    "boft": ({"block_size": 4}, {"boft_block_size": 4}),
}


class Draws:
    """Stands in for `torch.rand`: numbers for rows belong to the module that the last single number was for.

    The library draws none for the rows of a module that it leaves out.
    """

    def __init__(self, rand: Callable[..., Tensor]) -> None:
        self.rand, self.modules = rand, 0

    def __call__(self, number: int, **options: Any) -> Tensor:
        self.modules += number == 1
        return self.rand(number, generator=torch.Generator().manual_seed(1000 * self.modules + number), **options)


@pytest.fixture
def one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's random orders are those of random numbers, as ours, so that a seed gives both the same."""
    monkeypatch.setattr(torch, "randperm", lambda number: torch.rand(number).argsort())


def alike(mine: Backbone, other: nn.Module, names: dict[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Our tensors and the library's by name, with the same numbers."""
    tensors = dict(other.named_parameters())
    pairs = {name: (tensor, tensors[name_in_library(name, names)]) for name, tensor in mine.trainable}
    with torch.no_grad():
        for tensor, theirs in pairs.values():
            theirs.copy_(tensor.view_as(theirs))
    return pairs


@pytest.mark.parametrize(
    ("name", "options", "config", "their_options"), TRAINED, ids=[f"{case[0]}-{i}" for i, case in enumerate(TRAINED)]
)
def test_a_pass_of_a_training_is_the_librarys(
    double: None,
    butterflies: None,
    one_order: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    config: str,
    their_options: dict[str, Any],
) -> None:
    sizes, their_sizes = SIZES[name]
    if name == "boft":
        their_sizes = their_sizes | {"boft_n_butterfly_factor": options["num_factors"]}
    mine = ours(name, {**sizes, **options, "targets": ALL})
    other = theirs(config, {**their_sizes, **their_options, "target_modules": THEIR_ALL})
    pairs = alike(mine, other, NAMES[config])
    quiet = mine(images().double()).detach()
    found = passed(mine, "rank_dropout" in options, monkeypatch)
    expected = passed(other, "rank_dropout" in options, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found, quiet) == (name == "oft"), "what is left out is felt"
    for key, (tensor, theirs_) in pairs.items():
        gradient = torch.zeros_like(theirs_) if theirs_.grad is None else theirs_.grad
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, gradient.view_as(tensor), rtol=1e-12, atol=1e-11, msg=key)
        torch.testing.assert_close(tensor, theirs_.view_as(tensor), rtol=0, atol=1e-12, msg=key)


def passed(model: nn.Module, of_modules: bool, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Features of a pass in training, whose gradients are taken."""
    torch.manual_seed(7)
    with monkeypatch.context() as patched:
        if of_modules:
            patched.setattr(torch, "rand", Draws(torch.rand))
        features: Tensor = model.train()(images().double())
    loss(features).backward()
    return features.detach()


def test_rows_are_the_librarys_at_a_seed_of_torch(double: None) -> None:
    dropped = {"rank_dropout": 0.4}
    mine = ours("loha", {**SIZES["loha"][0], **dropped, "targets": ALL}).train()
    other = theirs("LoHaConfig", {**SIZES["loha"][1], **dropped, "target_modules": THEIR_ALL}).train()
    alike(mine, other, NAMES["LoHaConfig"])
    torch.manual_seed(3)
    found = mine(images().double())
    torch.manual_seed(3)
    torch.testing.assert_close(found, other(images().double()), rtol=1e-12, atol=1e-12)


def test_blocks_of_oft_that_do_not_turn_are_those_of_the_layer_that_the_library_never_calls(
    double: None, one_order: None
) -> None:
    from peft.tuners.oft.layer import MultiplicativeDropoutLayer

    module: Any = ours("oft", {"block_size": 8, "block_dropout": 0.4}).get_submodule("net.blocks.1.attn.qkv.changes.0")
    identity = torch.eye(48)
    turned = module(identity, None)[0].detach()
    blocks = torch.stack([turned[8 * i : 8 * i + 8, 8 * i : 8 * i + 8] for i in range(6)])
    torch.manual_seed(2)
    expected = torch.block_diag(*MultiplicativeDropoutLayer(0.4).train()(blocks))
    torch.manual_seed(2)
    torch.testing.assert_close(module.train()(identity, None)[0].detach(), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(expected, turned)
