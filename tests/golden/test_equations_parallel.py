"""Equations of the tuners beside frozen operations, written out for one ViT block, against the installed methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.foundation.errors import ConfigError
from peftbench.methods.base import METHODS
from tests.golden.test_equations import (
    WIDTH,
    agree,
    attention,
    installed,
    of_block,
    plain,
    run,
    tokens,
    weights,
)


def block(x: Tensor, w: dict[str, Tensor], beside_attention: Any, beside_mlp: Any) -> Tensor:
    """The block with something added to the outputs of attention and MLP, of what those read."""
    op = plain(w)
    n = op("norm1", x)
    q, k, v = op("attn.qkv", n).split(WIDTH, dim=-1)
    x = x + w["ls1.gamma"] * (op("attn.proj", attention(q, k, v)) + beside_attention(n, q))
    n = op("norm2", x)
    return x + w["ls2.gamma"] * (op("mlp.fc2", F.gelu(op("mlp.fc1", n))) + beside_mlp(n))


def adapter(backbone: Backbone, part: str) -> Any:
    down, a, up, b = (of_block(backbone, f"{part}.{name}")[0] for name in PARTS)
    return lambda x: F.gelu(x @ down.T + a) @ up.T + b


PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


def test_u_tuning_adds_a_prefix_of_its_own_to_attention_and_an_adapter_to_the_mlp() -> None:
    backbone, w = installed("u_tuning", num_tokens=3, bottleneck=5), weights()
    (p_k,), (p_v,) = of_block(backbone, "keys"), of_block(backbone, "values")

    def prefix(n: Tensor, q: Tensor) -> Tensor:
        return attention(q, p_k.expand(2, -1, -1), p_v.expand(2, -1, -1)) @ w["attn.proj.weight"].T

    agree(run(backbone, tokens()), block(tokens(), w, prefix, adapter(backbone, "taps.0")))


def test_u_tuning_puts_adapters_beside_attention_and_beside_the_whole_block() -> None:
    backbone, w = installed("u_tuning", attention="adapter", mlp="none", block="adapter"), weights()
    on_attention, on_block = adapter(backbone, "taps.0"), adapter(backbone, "1.module")
    inner = block(tokens(), w, lambda n, q: on_attention(n), lambda n: 0)
    agree(run(backbone, tokens()), inner + on_block(tokens()))


def test_u_tuning_needs_a_tuner() -> None:
    with pytest.raises(ConfigError, match="must have a tuner"):
        METHODS.get("u_tuning")(attention="none", mlp="none")


@pytest.mark.parametrize("residual", [False, True])
def test_krona_b_adds_a_kronecker_product_to_the_mlp(residual: bool) -> None:
    backbone, w = installed("krona_b_res" if residual else "krona_b", rows=4, columns=8, scale=1.5), weights()
    (a,), (b,) = of_block(backbone, "first"), of_block(backbone, "second")
    assert a.shape == (4, 8) and b.shape == (12, 6)
    product = 1.5 * torch.kron(a, b)
    s_res = of_block(backbone, "scale")[0] if residual else torch.zeros(1)
    agree(run(backbone, tokens()), block(tokens(), w, lambda n, q: 0, lambda n: n @ product.T + s_res * n))


def test_an_mlp_makes_the_prefixes_of_all_blocks() -> None:
    backbone, w = installed("prefix", num_tokens=3, mlp_width=7), weights()
    shared = {name: tensor for name, tensor in backbone.named_parameters() if name.startswith("shared.")}
    hidden = torch.tanh(
        shared["shared.prefix.embedding"] @ shared["shared.prefix.linear.weight"].T
        + shared["shared.prefix.linear.bias"]
    )
    (up,), (bias,) = of_block(backbone, "up.weight"), of_block(backbone, "up.bias")
    made = (hidden @ up.T + bias).detach().expand(2, -1, -1)
    op = plain(w)
    q, k, v = op("attn.qkv", op("norm1", tokens())).split(WIDTH, dim=-1)
    k, v = torch.cat([made[..., :WIDTH], k], dim=1), torch.cat([made[..., WIDTH:], v], dim=1)
    x = tokens() + w["ls1.gamma"] * op("attn.proj", attention(q, k, v))
    expected = x + w["ls2.gamma"] * op("mlp.fc2", F.gelu(op("mlp.fc1", op("norm2", x))))
    agree(run(backbone, tokens()), expected)


def test_a_prefix_made_by_an_mlp_trains_every_tensor_of_it() -> None:
    backbone = installed("mam", "vit_cls", mlp_width=7)
    (backbone.train()(torch.randn(2, 3, 32, 32)) ** 2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in backbone.trainable)
    assert {name for name, _ in make("vit_cls").trainable} == set()
