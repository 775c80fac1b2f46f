"""The adapter family's equations on one block, in plain tensor operations, against the installed methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install
from peftbench.methods.binary import codebook
from peftbench.train.optim import param_groups
from peftbench.train.options import OptimSpec
from tests.golden.test_equations import WIDTH, agree, attention, block, installed, of_block, plain, run, tokens, weights

PREFIXES = {"vit_layerscale": 1, "vit_avg": 0, "vit_registers": 3, "vit_distilled": 2}
GRID = 4
Branch = Callable[[Tensor], Tensor]


def tensors(backbone: Backbone, half: int = 0) -> dict[str, Tensor]:
    """The method's tensors of block 1 by the last words of their names; `half` 0 is attention, 1 the MLP."""
    block_tensors = [(name, p.detach()) for name, p in backbone.trainable if name.startswith("net.blocks.1.")]
    wanted = (".taps.0.", ".attn.") if half == 0 else (".taps.1.", ".mlp.")
    chosen = [(name, p) for name, p in block_tensors if any(word in name for word in wanted)]
    assert chosen
    for marker in (".module.", *(w for w in wanted if "taps" in w)):
        chosen = [(name.split(marker)[-1], p) for name, p in chosen]
    return dict(chosen)


def reference(
    x: Tensor,
    backbone: str = "vit_layerscale",
    ahead: tuple[Branch, Branch] | None = None,
    behind: tuple[Branch, Branch] | None = None,
    beside: tuple[Branch, Branch] | None = None,
    stream: tuple[Branch, Branch] | None = None,
) -> Tensor:
    """A block with functions ahead of qkv and fc1, behind attention and the MLP, beside them, and on the stream."""
    w = weights(backbone)
    op, one = plain(w), torch.tensor(1.0)
    for number in (0, 1):
        normed = op(f"norm{number + 1}", x)
        read = ahead[number](normed) if ahead else normed
        if number == 0:
            core = op("attn.proj", attention(*op("attn.qkv", read).split(WIDTH, dim=-1)))
        else:
            core = op("mlp.fc2", F.gelu(op("mlp.fc1", read)))
        core = behind[number](core) if behind else core
        x = x + w.get(f"ls{number + 1}.gamma", one) * core + (beside[number](normed) if beside else 0)
        x = stream[number](x) if stream else x
    return x


def nothing(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def same(x: Tensor) -> Tensor:
    return x


def quick_gelu(x: Tensor) -> Tensor:
    return x * (1 + (-1.702 * x).exp()).reciprocal()


def test_the_reference_itself_is_the_block() -> None:
    agree(reference(tokens()), block(tokens(), weights(), plain(weights())))


@pytest.mark.parametrize(("activation", "act"), [("gelu", F.gelu), ("quick_gelu", quick_gelu), ("relu", torch.relu)])
def test_sequential_adapters(activation: str, act: Branch) -> None:
    for name in ("adapter_pfeiffer", "adapter_houlsby"):
        backbone = installed(name, bottleneck=5, scale=0.7, activation=activation)

        def adapter(half: int, backbone: Backbone = backbone) -> Branch:
            t = tensors(backbone, half)
            down, up = (
                (lambda y: y @ t["down.weight"].T + t["down.bias"]),
                (lambda y: y @ t["up.weight"].T + t["up.bias"]),
            )
            return lambda y: y + 0.7 * up(act(down(y)))

        first = same if name == "adapter_pfeiffer" else adapter(0)
        agree(run(backbone, tokens()), reference(tokens(), behind=(first, adapter(1))))


def test_the_inits_of_sequential_adapters() -> None:
    """Uniform bounds: kaiming with a = sqrt(5) is 1 / sqrt(in), xavier is sqrt(6 / (in + out))."""
    bounds = {
        "lora": (WIDTH**-0.5, 0.0),
        "lora_xavier": ((6 / (WIDTH + 64)) ** 0.5, 0.0),
        "xavier": ((6 / (WIDTH + 64)) ** 0.5,) * 2,
    }
    for init, expected in bounds.items():
        backbone = make("vit_cls")
        install(METHODS.get("adapter_houlsby")(bottleneck=64, init=init), backbone)
        for half in (0, 1):
            t = tensors(backbone, half)
            for name, bound in zip(("down", "up"), expected, strict=True):
                assert 0.97 * bound <= t[f"{name}.weight"].abs().max() <= bound
                assert not t[f"{name}.bias"].any()


def neighbours(u: Tensor, prefix: int, kernel: Tensor, bias: Tensor) -> Tensor:
    """A convolution tap by tap: `kernel` [out, in, size, size] over the patch grid; other tokens meet the centre."""
    reach = kernel.shape[-1] // 2
    out = u @ kernel[:, :, reach, reach].T + bias
    for row in range(GRID):
        for column in range(GRID):
            total = bias.expand(len(u), -1)
            for other_row in range(max(0, row - reach), min(GRID, row + reach + 1)):
                for other_column in range(max(0, column - reach), min(GRID, column + reach + 1)):
                    tap = kernel[:, :, other_row - row + reach, other_column - column + reach]
                    total = total + u[:, prefix + GRID * other_row + other_column] @ tap.T
            out[:, prefix + GRID * row + column] = total
    return out


@pytest.mark.parametrize("name", ["convpass", "convpass_attn"])
@pytest.mark.parametrize("model", PREFIXES)
def test_convpass(name: str, model: str) -> None:
    backbone, x = installed(name, model, bottleneck=5, scale=0.3), tokens(16 + PREFIXES[model])

    def bypass(half: int) -> Branch:
        t = tensors(backbone, half)

        def branch(z: Tensor) -> Tensor:
            u = quick_gelu(z @ t["down.weight"].T + t["down.bias"])
            u = quick_gelu(neighbours(u, PREFIXES[model], t["conv.weight"], t["conv.bias"]))
            return 0.3 * (u @ t["up.weight"].T + t["up.bias"])

        return branch

    second = nothing if name == "convpass_attn" else bypass(1)
    agree(run(backbone, x), reference(x, model, beside=(bypass(0), second)))


def test_the_convolution_of_convpass_starts_as_the_identity_or_xavier() -> None:
    backbone = make("vit_cls")
    install(METHODS.get("convpass")(bottleneck=6), backbone)
    kernel = tensors(backbone)["conv.weight"]
    assert torch.equal(kernel[:, :, 1, 1], torch.eye(6)) and kernel.abs().sum() == 6
    backbone = make("vit_cls")
    install(METHODS.get("convpass")(bottleneck=32, conv_init="xavier"), backbone)
    bound = (6 / (2 * 9 * 32)) ** 0.5
    assert 0.99 * bound < tensors(backbone)["conv.weight"].abs().max() <= bound


def test_a_bypass_goes_through_stochastic_depth_with_its_own_draw() -> None:
    """With rate 1 - 1e-9 in training both the half and its bypass are dropped: the block is the identity."""
    backbone = installed("convpass")
    found: Any = backbone.net.blocks[1].base  # type: ignore[union-attr, index]
    for name in ("drop_path1", "drop_path2"):
        setattr(found, name, torch.nn.Dropout(1 - 1e-9))
    backbone.train()
    agree(run(backbone, tokens()), tokens())


@pytest.mark.parametrize("name", ["repadapter", "repadapter_attn"])
def test_repadapter(name: str) -> None:
    backbone = installed(name, bottleneck=6, num_groups=3, scale=0.7)

    def adapter(half: int) -> Branch:
        t = tensors(backbone, half)

        def branch(z: Tensor) -> Tensor:
            hidden, out = z @ t["down.weight"].T + t["down.bias"], []
            for group in range(3):
                rows = t["up"][16 * group : 16 * (group + 1)]
                out.append(hidden[..., 2 * group : 2 * group + 2] @ rows.T)
            return z + 0.7 * (torch.cat(out, dim=-1) + t["up_bias"])

        return branch

    second = same if name == "repadapter_attn" else adapter(1)
    agree(run(backbone, tokens()), reference(tokens(), ahead=(adapter(0), second)))


@pytest.mark.parametrize(("form", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_compacter(form: str, approximate: str) -> None:
    backbone = installed("compacter", bottleneck=6, num_blocks=3, rank=2, activation=form)
    (rules,) = [p.detach() for name, p in backbone.trainable if "rules" in name]

    def linear(y: Tensor, t: dict[str, Tensor], name: str) -> Tensor:
        weight = sum(torch.kron(rules[i], t[f"{name}.left"][i] @ t[f"{name}.right"][i]) for i in range(3))
        return y @ weight + t[f"{name}.bias"]

    def adapter(half: int) -> Branch:
        t = tensors(backbone, half)
        return lambda y: y + linear(F.gelu(linear(y, t, "down"), approximate=approximate), t, "up")

    agree(run(backbone, tokens()), reference(tokens(), behind=(adapter(0), adapter(1))))


@pytest.mark.parametrize("model", PREFIXES)
def test_mona(model: str) -> None:
    backbone, x = installed("mona", model, bottleneck=5), tokens(16 + PREFIXES[model])

    def adapter(half: int) -> Branch:
        t = tensors(backbone, half)

        def depthwise(u: Tensor, number: int) -> Tensor:
            kernel = t[f"depthwise.{number}.weight"]
            dense = torch.zeros(5, 5, *kernel.shape[2:])
            dense[range(5), range(5)] = kernel[:, 0]
            return neighbours(u, PREFIXES[model], dense, t[f"depthwise.{number}.bias"])

        def branch(x: Tensor) -> Tensor:
            normed = F.layer_norm(x, (WIDTH,), t["norm.weight"], t["norm.bias"], eps=1e-5)
            u = (t["norm_scale"] * normed + t["skip_scale"] * x) @ t["down.weight"].T + t["down.bias"]
            u = u + (depthwise(u, 0) + depthwise(u, 1) + depthwise(u, 2)) / 3
            u = u + u @ t["pointwise.weight"][:, :, 0, 0].T + t["pointwise.bias"]
            return x + F.gelu(u) @ t["up.weight"].T + t["up.bias"]

        return branch

    agree(run(backbone, x), reference(x, model, stream=(adapter(0), adapter(1))))


def test_monas_recipe_decays_biases_and_scales_but_no_layer_norm() -> None:
    """mmcv's `custom_keys` with `norm`, which stands in neither of the released `gamma` and `gammax`."""
    built = make("swin")
    install(METHODS.get("mona")(), built)
    spec = OptimSpec(weight_decay=0.01, decay_vectors=True, undecayed=[".norm."])
    names = {group["name"]: set(group["names"]) for group in param_groups(built.trainable, [], spec)}
    assert names["method/no_decay"] == {name for name, _ in built.trainable if name.split(".")[-2] == "norm"}
    ends = {name.rpartition(".")[2] for name in names["method/decay"]}
    assert ends == {"norm_scale", "skip_scale", "weight", "bias"}


@pytest.mark.parametrize("model", ["convnext", "convnext_conv_mlp"])
@torch.no_grad()
def test_a_block_of_convnext_with_taps_and_without(model: str) -> None:
    """Silent taps leave timm's block bit for bit; a parallel branch of ConvNeXt reads the stream, channels last."""
    maps = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(4))
    bare = make(model).net.stages[1].blocks[0](maps)  # type: ignore[union-attr, index, operator]
    silent, moved = make(model), installed("adaptformer", model, scale=0.7)
    install(METHODS.get("adaptformer")(), silent)
    assert torch.equal(silent.eval().net.stages[1].blocks[0](maps), bare)  # type: ignore[union-attr, index, operator]
    t = {n.split("taps.0.")[-1]: p for n, p in moved.trainable if n.startswith("net.stages.1.blocks.0.")}
    hidden = torch.relu(maps.permute(0, 2, 3, 1) @ t["down.weight"].T + t["down.bias"])
    added = 0.7 * (hidden @ t["up.weight"].T + t["up.bias"])
    agree(moved.net.stages[1].blocks[0](maps), bare + added.permute(0, 3, 1, 2))  # type: ignore[union-attr, index, operator]


def few_bits(weight: Tensor, bits: int) -> Tensor:
    """Every entry replaced by the nearest code of the standard normal: one bit +-Phi^-1(3/4); two bits by bisection."""
    normal = torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0))
    codes = normal.icdf(torch.tensor([0.25, 0.75]))
    if bits == 2:
        low, high = 0.1, 2.0
        for _ in range(60):
            middle = (low + high) / 2
            half = normal.cdf(torch.tensor(middle)).item()
            inner, outer = normal.icdf(torch.tensor([(0.5 + half) / 2, (half + 1) / 2])).tolist()
            low, high = (middle, high) if (inner + outer) / 2 > middle else (low, middle)
        codes = torch.tensor([-outer, -inner, inner, outer])
    standard = (weight - weight.mean()) / (weight.std() + 1e-5)
    nearest = (standard.unsqueeze(-1) - codes).abs().argmin(-1)
    return codes[nearest] * weight.std() + weight.mean()


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_the_code_is_what_500_steps_from_zeros_come_to(bits: int) -> None:
    """The released scheme by scipy's normal; with eight bits it stops short of its limit, at +-2.81."""
    values = np.zeros(2**bits)
    for _ in range(500):
        boundaries = (values[1:] + values[:-1]) / 2
        below = np.concatenate([[0.0], norm.cdf(boundaries), [1.0]])
        values = norm.ppf((below[1:] + below[:-1]) / 2)
    for found, expected in zip(codebook(bits), (values, boundaries), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    assert bits < 8 or abs(values[-1] - 2.81) < 0.01


@pytest.mark.parametrize("bits", [1, 2])
def test_adapters_of_few_bits(bits: int) -> None:
    backbone, w = installed("bi_adaptformer", bottleneck=6, bits=bits, scale=0.7), weights()
    t = {name.split(".")[-1]: p.detach() for name, p in backbone.trainable if ".blocks.1." in name}
    down, up = few_bits(t["down"], bits), few_bits(t["up"], bits)
    agree(run(backbone, tokens()), block(tokens(), w, plain(w), lambda z: 0.7 * torch.relu(z @ down.T) @ up.T))

    backbone = installed("bi_lora", bottleneck=6, bits=bits, scale=0.7)
    t = {name.split("deltas.")[-1]: p.detach() for name, p in backbone.trainable if ".blocks.1." in name}
    delta = {number: few_bits(t[f"{number}.up"], bits) @ few_bits(t[f"{number}.down"], bits) for number in (0, 2)}
    whole = torch.cat([delta[0], torch.zeros(WIDTH, WIDTH), delta[2]])
    w["attn.qkv.weight"] = w["attn.qkv.weight"] + 0.7 * whole
    agree(run(backbone, tokens()), block(tokens(), w, plain(w)))


def test_hyperadapter_adapts_means_over_soft_groups_of_tokens() -> None:
    backbone, w = installed("hyperadapter", bottleneck=5, num_edges=3, temperature=0.2), weights()
    prototypes, downs, ups = (of_block(backbone, name) for name in ("prototypes", ".down", ".up"))

    def edges(n: Tensor, half: int) -> Tensor:
        out = torch.zeros_like(n)
        for image, tokens_of_it in enumerate(n):
            cosines = torch.stack([F.cosine_similarity(tokens_of_it, p.unsqueeze(0)) for p in prototypes[half]], dim=1)
            shares = torch.softmax(cosines / 0.2, dim=1)
            for k in range(3):
                mean = (shares[:, k : k + 1] * tokens_of_it).sum(dim=0) / shares[:, k].sum()
                update = ups[half] @ F.gelu(downs[half] @ mean)
                out[image] += shares[:, k : k + 1] * update
        return out

    op = plain(w)
    x = tokens()
    n = op("norm1", x)
    q, k, v = op("attn.qkv", n).split(WIDTH, dim=-1)
    x = x + w["ls1.gamma"] * op("attn.proj", attention(q, k, v)) + edges(n, 0)
    n = op("norm2", x)
    x = x + w["ls2.gamma"] * op("mlp.fc2", F.gelu(op("mlp.fc1", n))) + edges(n, 1)
    agree(run(backbone, tokens()), x)
