"""What is left out in training alone: rows and whole changes, blocks that do not turn, and OFT within its ball.

In plain tensor operations, which take their draws from the same seeds and never call the methods' own classes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.contracts.backbones import images, installed
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.interventions.rotation import into_ball
from peftbench.methods.base import METHODS
from tests.golden.test_equations import LAYER, WIDTH
from tests.golden.test_equations_lowrank import OUT, agrees, frozen, moved, own
from tests.golden.test_equations_rotations import rotation, triangle

BOTH = pytest.mark.parametrize("name", ["loha", "lokr"])


def change(name: str, part: str, **options: Any) -> tuple[Any, Tensor]:
    """The module of one matrix in training, and the change [48, 48] that it makes outside of training."""
    module: Any = moved(name, rank=3, **options).get_submodule(f"net.blocks.{LAYER}.attn.qkv.deltas.{OUT[part]}")
    return module.train(), module.weight().detach()


def acts_as(module: Any, seed: int) -> Tensor:
    """The matrix [48, 48] that a module applies at that seed."""
    torch.manual_seed(seed)
    found: Tensor = module(torch.eye(WIDTH, dtype=torch.float64)).detach().T
    return found


@BOTH
@pytest.mark.parametrize("rescaled", [True, False])
def test_rank_dropout_takes_rows_of_the_change(name: str, rescaled: bool) -> None:
    module, whole = change(name, "v", rank_dropout=0.4, rank_dropout_scale=rescaled)
    for seed in range(3):
        found = acts_as(module, seed)
        torch.manual_seed(seed)
        torch.rand(1)  # is for the whole
        rows = [number > 0.4 for number in torch.rand(WIDTH).tolist()]
        assert 0 < sum(rows) < WIDTH
        factor = WIDTH / sum(rows) if rescaled else 1.0
        expected = torch.stack([factor * row if keep else 0 * row for keep, row in zip(rows, whole, strict=True)])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@BOTH
def test_module_dropout_takes_the_whole_change_or_nothing(name: str) -> None:
    module, whole = change(name, "q", module_dropout=0.3)
    kept = []
    for seed in range(40):
        found = acts_as(module, seed)
        torch.manual_seed(seed)
        kept.append(torch.rand(1).item() > 0.3)
        torch.testing.assert_close(found, whole if kept[-1] else torch.zeros_like(whole), rtol=0, atol=1e-12)
    assert 20 < sum(kept) < 36


@BOTH
def test_a_change_without_any_row_left_is_zero(name: str) -> None:
    module, _ = change(name, "q", rank_dropout=0.99, rank_dropout_scale=True)
    left = []
    for seed in range(12):
        torch.manual_seed(seed)
        module.zero_grad()
        out = module(torch.ones(2, WIDTH, dtype=torch.float64))
        out.sum().backward()
        left.append(bool(out.any()))
        assert all(tensor.grad.isfinite().all() for tensor in module.parameters())
    assert True in left and False in left


@BOTH
def test_a_seed_without_dropout_draws_nothing(name: str) -> None:
    module, whole = change(name, "q")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.testing.assert_close(module(torch.eye(WIDTH, dtype=torch.float64)).T, whole, rtol=0, atol=1e-12)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("loha", {"rank_dropout": 0.5, "module_dropout": 0.5}),
        ("lokr", {"rank_dropout": 0.5, "module_dropout": 0.5, "rank_dropout_scale": True}),
        ("oft", {"block_size": 8, "block_dropout": 0.5}),
        ("oft", {"block_size": 8, "coft": True, "eps": 0.5}),
        ("boft", {"block_size": 4, "block_dropout": 0.5}),
    ],
)
def test_neither_evaluation_nor_merging_leaves_anything_out(name: str, options: dict[str, Any]) -> None:
    constrained = {key: value for key, value in options.items() if "dropout" not in key}
    backbone, plain, x = moved(name, **options), moved(name, **constrained), images().double()
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(backbone(x), expected, rtol=0, atol=0)
        METHODS.get(name)(**options).merge(backbone.train())
        torch.testing.assert_close(backbone.eval()(x), expected, rtol=0, atol=1e-10)


def turning(name: str, part: str, **options: Any) -> tuple[Any, Tensor]:
    """The module of one matrix in training, and the blocks that stand in it, moved off their start."""
    module: Any = moved(name, **options).get_submodule(f"net.blocks.{LAYER}.attn.qkv.changes.{OUT[part]}")
    return module.train(), next(module.parameters()).detach().clone()


@pytest.mark.parametrize("share", [0.5, 0.4])
def test_block_dropout_of_oft_lets_blocks_stand_still(share: float) -> None:
    module, values = turning("oft", "q", block_size=8, block_dropout=share)
    w, number = frozen("q"), int(share * 6)
    still = set()
    for seed in range(4):
        torch.manual_seed(seed)
        found = module(w, None)[0].detach()
        blocks = []
        for i, row in enumerate(values):
            same = torch.allclose(found[:, 8 * i : 8 * i + 8], w[:, 8 * i : 8 * i + 8], atol=1e-12)
            blocks.append(torch.eye(8, dtype=w.dtype) if same else rotation(triangle(row, 8)))
            if same:
                still.add((seed, i))
        torch.testing.assert_close(found, w @ torch.block_diag(*blocks), rtol=0, atol=1e-12)
    assert [sum(seed == s for s, _ in still) for seed in range(4)] == [number] * 4
    assert len({i for _, i in still}) > number, "other blocks in other passes"


def test_block_dropout_of_boft_takes_blocks_of_one_factor() -> None:
    """Whatever was drawn, it is one of the rotations that leave half of the blocks of one factor out."""
    options = {"block_size": 8, "num_factors": 2, "block_dropout": 0.5}
    module, blocks = turning("boft", "q", **options)
    w, factors = frozen("q"), set()
    assert blocks.shape == (2, 6, 8, 8)
    for seed in range(8):
        torch.manual_seed(seed)
        factor, places = torch.randint(2, (1,)).item(), torch.rand(6).argsort().tolist()
        quiet = blocks.clone()
        quiet[factor, [block for block, place in enumerate(places) if place < 3]] = 0
        torch.manual_seed(seed)
        found = module(w, None)[0].detach()
        with torch.no_grad():
            module.blocks.copy_(quiet)
            expected = module.eval()(w, None)[0]
            module.train().blocks.copy_(blocks)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        factors.add(factor)
    assert factors == {0, 1}


@pytest.mark.parametrize(("eps", "shared"), [(1.0, False), (0.3, True), (9.0, False)])
def test_coft_puts_blocks_back_onto_a_ball(eps: float, shared: bool) -> None:
    options = {"block_size": 8, "coft": True, "eps": eps, "block_share": shared}
    backbone, new = moved("oft", **options), {}
    radius = eps if shared else eps / 6**0.5
    lengths = []
    for part in ("q", "v"):
        blocks = []
        for row in own(backbone, f"changes.{OUT[part]}.values"):
            q = triangle(row, 8)
            lengths.append((q**2).sum().sqrt().item())
            blocks.append(rotation(q if lengths[-1] <= radius else q * radius / lengths[-1]))
        new[part] = frozen(part) @ torch.block_diag(*(blocks * 6 if shared else blocks))
    assert (max(lengths) > radius) == (eps < 9)
    agrees(backbone, new)


def test_what_lies_on_the_ball_stays_to_the_bit() -> None:
    values = torch.randn(20_000, 496, generator=torch.Generator().manual_seed(4))
    for radius in (1e-5, 0.3, 7.0):
        once = into_ball(values, radius)
        assert torch.equal(into_ball(once, radius), once)
        torch.testing.assert_close(once.norm(dim=1) * 2**0.5, torch.full((20_000,), radius), rtol=1e-6, atol=0)


def test_coft_trains_from_the_ball_on_with_the_gradient_there() -> None:
    module, values = turning("oft", "v", block_size=8, coft=True, eps=1.0)
    w, radius = frozen("v"), 1 / 6**0.5
    g = torch.randn(w.shape, dtype=w.dtype, generator=torch.Generator().manual_seed(1))
    outside = module.eval()(w, None)[0].detach()
    assert torch.equal(module.values, values), "evaluation moves nothing that trains"
    found = module.train()(w, None)[0]
    torch.testing.assert_close(found, outside, rtol=0, atol=1e-12)
    (found * g).sum().backward()
    inside = values * (radius / (2 * (values**2).sum(dim=1, keepdim=True)).sqrt()).clamp(max=1.0)
    torch.testing.assert_close(module.values.detach(), inside, rtol=0, atol=1e-12)
    inside.requires_grad_()
    turned = w @ torch.block_diag(*(rotation(_skew(row)) for row in inside))
    (turned * g).sum().backward()
    torch.testing.assert_close(module.values.grad, inside.grad, rtol=0, atol=1e-10)


def _skew(row: Tensor) -> Tensor:
    """`triangle`, through which gradients pass."""
    q = torch.zeros(8, 8, dtype=row.dtype)
    places = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    for (i, j), value in zip(places, row, strict=True):
        unit = torch.zeros_like(q)
        unit[i, j], unit[j, i] = 1.0, -1.0
        q = q + value * unit
    return q


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("oft", {"eps": 1e-3}, "method.eps"),
        ("oft", {"block_share": True, "block_dropout": 0.5}, "method.block_dropout"),
        ("loha", {"rank_dropout_scale": False}, "method.rank_dropout_scale"),
        ("lokr", {"rank_dropout_scale": True}, "method.rank_dropout_scale"),
    ],
)
def test_what_would_do_nothing_is_refused(name: str, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        METHODS.get(name)(**options)


@pytest.mark.parametrize(("name", "size", "least"), [("oft", 12, "0.25"), ("boft", 4, "0.0833")])
def test_a_share_that_holds_no_block_is_refused(name: str, size: int, least: str) -> None:
    with pytest.raises(
        NotApplicable, match=rf"method\.block_dropout=0\.05 of {48 // size} blocks.*set {least} or more"
    ):
        installed(METHODS.get(name)(block_size=size, block_dropout=0.05), "vit_cls")
