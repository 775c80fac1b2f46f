"""Equations of the adapted forms of dense and multimodal methods, written out for one ViT block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install
from tests.golden.test_equations import LAYER, WIDTH, agree, attention, block, installed, plain, run, tokens, weights
from tests.golden.test_equations_adapters import Branch, reference, same, tensors


def shared(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors that all layers use, by the last word of their names."""
    return {name.split(".")[-1]: p.detach() for name, p in backbone.trainable if name.startswith("shared.")}


def test_lorand() -> None:
    backbone = installed("lorand", num_branches=3, rank=4, reduction=6)

    def adapter(half: int) -> Branch:
        t = tensors(backbone, half)
        down = sum(t["down_left"][i] @ t["kernels"][i] @ t["down_right"][i] for i in range(3))
        up = sum(t["up_left"][i] @ t["kernels"][i] @ t["up_right"][i] for i in range(3))
        assert isinstance(down, Tensor) and down.shape == (WIDTH, 8)
        return lambda y: y + F.gelu(y @ down + t["down_bias"]) @ up + t["up_bias"]

    agree(run(backbone, tokens()), reference(tokens(), behind=(adapter(0), adapter(1))))


def test_the_kernels_of_lorand_serve_both_projections() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("lorand")(), backbone)
    adapter = tensors(backbone)
    assert adapter["kernels"].shape == (2, 8, 8)
    # kaiming with a = sqrt(5) is uniform within 1 / sqrt(columns), as in the authors' class
    for name, columns in (("kernels", 8), ("down_left", 8), ("down_right", 24), ("up_right", 48)):
        assert 0.85 * columns**-0.5 < adapter[name].abs().max() <= columns**-0.5


def test_sam_parser_moves_singular_values_and_keeps_the_bases() -> None:
    backbone, w = installed("sam_parser"), weights()
    for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        (move,) = [p.detach() for n, p in backbone.trainable if n.startswith(f"net.blocks.{LAYER}.{name}.")]
        weight = w[f"{name}.weight"].double()
        # eigenvectors of W^T W are the right singular vectors, found another way than by the method
        values, vectors = torch.linalg.eigh(weight.T @ weight if weight.shape[1] == len(move) else weight @ weight.T)
        values, vectors = values.flip(0).sqrt(), vectors.flip(1)
        scaled = vectors @ torch.diag((values + move) / values) @ vectors.T
        moved = weight @ scaled if weight.shape[1] == len(move) else scaled @ weight
        w[f"{name}.weight"] = moved.float()
    agree(run(backbone, tokens()), block(tokens(), w, plain(w)))


def test_sam_parser_leaves_out_the_maps_that_are_not_targets() -> None:
    backbone = installed("sam_parser", targets=["proj"])
    assert {name.split(".")[4] for name, _ in backbone.trainable} == {"proj"}


def test_lossless_adapters_behind_attention_and_the_mlp() -> None:
    backbone = installed("lossless_adapter", places=["middle"], bottleneck=5, scale=0.7)

    def adapter(half: int) -> Branch:
        t = tensors(backbone, half)
        return lambda y: (
            y + 0.7 * (torch.relu(y @ t["down.weight"].T + t["down.bias"]) @ t["up.weight"].T + t["up.bias"])
        )

    agree(run(backbone, tokens()), reference(tokens(), behind=(adapter(0), adapter(1))))


@torch.no_grad()
def test_lossless_adapters_at_the_bottom_and_the_top() -> None:
    """The same network between them: adapt patch embeddings [batch, width, 4, 4] and the normed class token by hand."""
    both, bare = installed("lossless_adapter", "vit_cls", places=["bottom", "top"]), make("vit_cls")
    t = {name: p.detach() for name, p in both.trainable}
    ends = {
        where: {name.split("module.")[1]: p for name, p in t.items() if word in name}
        for where, word in (("bottom", "patch_embed"), ("top", "net.norm"))
    }
    assert [len(part) for part in ends.values()] == [4, 4]

    def adapted(y: Tensor, where: str) -> Tensor:
        e = ends[where]
        return y + torch.relu(y @ e["down.weight"].T + e["down.bias"]) @ e["up.weight"].T + e["up.bias"]

    def embed(maps: Tensor) -> Tensor:
        return adapted(maps.movedim(1, -1), "bottom").movedim(-1, 1)

    bare.net.patch_embed.proj.register_forward_hook(lambda module, inputs, out: embed(out))  # type: ignore[union-attr]
    agree(both(images()), adapted(bare(images()), "top"))


def kronecker_linear(y: Tensor, rules: Tensor, left: Tensor, right: Tensor, bias: Tensor) -> Tensor:
    weight = sum(torch.kron(rules[i], left[i] @ right[i]) for i in range(len(rules)))
    assert isinstance(weight, Tensor)
    return y @ weight + bias


@pytest.mark.parametrize(("projection", "form"), [("down", "gelu"), ("up", "gelu_tanh"), ("none", "gelu")])
def test_mixphm_evaluates_the_mean_of_its_experts(projection: str, form: str) -> None:
    options = {"bottleneck": 6, "num_blocks": 3, "rank": 2, "num_experts": 5, "scale": 0.7, "activation": form}
    backbone = installed("mixphm", shared=projection, **options)
    t, rules = tensors(backbone, 1), shared(backbone)["matrices"]
    assert (len(t["down.bias"]), len(t["up.bias"])) == (
        1 if projection == "down" else 5,
        1 if projection == "up" else 5,
    )

    def linear(y: Tensor, name: str) -> Tensor:
        return kronecker_linear(y, rules, *(t[f"{name}.{part}"].mean(0) for part in ("left", "right", "bias")))

    approximate = "tanh" if form == "gelu_tanh" else "none"
    branch = (same, lambda y: y + 0.7 * up_of(y, linear, approximate))
    agree(run(backbone, tokens()), reference(tokens(), behind=branch))


def up_of(y: Tensor, linear: object, approximate: str = "none") -> Tensor:
    assert callable(linear)
    result: Tensor = linear(F.gelu(linear(y, "down"), approximate=approximate), "up")
    return result


def test_mixphm_trains_one_expert_at_a_time() -> None:
    backbone = installed("mixphm", dropout=0.0, bottleneck=6, num_blocks=3, rank=2, num_experts=2)
    t, rules = tensors(backbone, 1), shared(backbone)["matrices"]

    def expected(number: int) -> Tensor:
        def linear(y: Tensor, name: str) -> Tensor:
            chosen = number if name == "up" else 0
            return kronecker_linear(y, rules, *(t[f"{name}.{part}"][chosen] for part in ("left", "right", "bias")))

        return reference(tokens(), behind=(same, lambda y: y + up_of(y, linear)))

    backbone.train()
    torch.manual_seed(0)
    choices, seen = [expected(0), expected(1)], set()
    for _ in range(12):
        out = run(backbone, tokens())
        nearest = min((0, 1), key=lambda number: float((out - choices[number]).abs().max()))
        agree(out, choices[nearest])
        seen.add(nearest)
    assert seen == {0, 1}


def test_the_experts_of_mixphm_start_as_one() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("mixphm")(num_experts=3), backbone)
    adapter = tensors(backbone, 1)
    for part in ("left", "right", "bias"):
        first, *others = adapter[f"up.{part}"]
        assert len(others) == 2 and all(torch.equal(first, other) for other in others)
    assert adapter["up.left"].std() > 0


def test_hyperprompt() -> None:
    backbone, w = installed("hyperprompt", num_tokens=4, bottleneck=5), weights()
    prompt = shared(backbone)["tokens"]
    t = {n.split(".")[-1]: p.detach() for n, p in backbone.trainable if n.startswith(f"net.blocks.{LAYER}.")}
    assert prompt.shape == (4, WIDTH) and len(t) == 4
    keys = torch.relu(prompt @ t["down_keys"].T) @ t["up_keys"].T
    values = torch.relu(prompt @ t["down_values"].T) @ t["up_values"].T

    op, x = plain(w), tokens()
    q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
    k, v = torch.cat([keys.expand(2, -1, -1), k], dim=1), torch.cat([values.expand(2, -1, -1), v], dim=1)
    x = x + w["ls1.gamma"] * op("attn.proj", attention(q, k, v))
    agree(run(backbone, tokens()), x + w["ls2.gamma"] * op("mlp.fc2", F.gelu(op("mlp.fc1", op("norm2", x)))))
