"""The PEFT library's tuners on a tiny timm ViT with our tensors: the same features and gradients, in double precision.

The library adapts whole linear maps, so its copy of the network has q, k and v apart. Skipped without the package.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install

peft = pytest.importorskip("peft")

QV = ["q", "v"]
ALL = ["q", "k", "v", "proj", "fc1", "fc2"]
# the patch embedding is a `proj` too
THEIR_ALL = ["q", "k", "v", "attn.proj", "fc1", "fc2"]
# method, its options -> the library's config, its options, and our tensors' names in it
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any], dict[str, str]]] = [
    (
        "lora",
        {"rank": 3, "alpha": 6.0, "targets": ALL},
        "LoraConfig",
        {"r": 3, "lora_alpha": 6, "target_modules": THEIR_ALL},
        {"down": "lora_A.default.weight", "up": "lora_B.default.weight"},
    ),
    (
        "dora",
        {"rank": 3, "alpha": 6.0, "targets": ALL},
        "LoraConfig",
        {"r": 3, "lora_alpha": 6, "use_dora": True, "target_modules": THEIR_ALL},
        {
            "pair.down": "lora_A.default.weight",
            "pair.up": "lora_B.default.weight",
            "magnitude": "lora_magnitude_vector.default.weight",
        },
    ),
    (
        "vera",
        {"rank": 5},
        "VeraConfig",
        {"r": 5, "d_initial": 0.1, "target_modules": QV},
        {"inner": "vera_lambda_d.default", "outer": "vera_lambda_b.default"},
    ),
    (
        "oft",
        {"block_size": 12, "targets": ALL},
        "OFTConfig",
        {"oft_block_size": 12, "use_cayley_neumann": False, "target_modules": THEIR_ALL},
        {"values": "oft_R.default.weight"},
    ),
    (
        "oft",
        {"block_size": 8, "cayley": "series"},
        "OFTConfig",
        {"oft_block_size": 8, "use_cayley_neumann": True, "target_modules": QV},
        {"values": "oft_R.default.weight"},
    ),
    (
        "oft",
        {"block_size": 8, "block_share": True, "targets": ALL},
        "OFTConfig",
        {"oft_block_size": 8, "block_share": True, "use_cayley_neumann": False, "target_modules": THEIR_ALL},
        {"values": "oft_R.default.weight"},
    ),
    *[
        (
            "oft",
            {"cayley": cayley, "coft": True, **options},
            "OFTConfig",
            {"use_cayley_neumann": cayley == "series", "coft": True, "target_modules": THEIR_ALL, **their_options},
            {"values": "oft_R.default.weight"},
        )
        for cayley in ("exact", "series")
        # so wide that some blocks lie within the ball
        for options, their_options in (
            ({"block_size": 12, "targets": ALL, "eps": 1.1}, {"oft_block_size": 12, "eps": 1.1}),
            (
                {"block_size": 8, "targets": ALL, "eps": 0.3, "block_share": True},
                {"oft_block_size": 8, "eps": 0.3, "block_share": True},
            ),
        )
    ],
    (
        "boft",
        {"block_size": 4, "num_factors": 1, "targets": ALL},
        "BOFTConfig",
        {"boft_block_size": 4, "boft_n_butterfly_factor": 1, "target_modules": THEIR_ALL},
        {"blocks": "boft_R.default", "scale": "boft_s.default"},
    ),
    (
        "boft",
        {"block_size": 4, "num_factors": 3, "targets": ALL},
        "BOFTConfig",
        {"boft_block_size": 4, "boft_n_butterfly_factor": 3, "target_modules": THEIR_ALL},
        {"blocks": "boft_R.default", "scale": "boft_s.default"},
    ),
    ("hra", {"rank": 4, "targets": ALL}, "HRAConfig", {"r": 4, "target_modules": THEIR_ALL}, {"axes": "hra_u.default"}),
    (
        "psoft",
        {"rank": 7, "dropout": 0.0},
        "PsoftConfig",
        {"r": 7, "psoft_alpha": 14, "ab_svd_init": "psoft_init", "target_modules": THEIR_ALL},
        {
            "values": "psoft_R.default.weight",
            "outer": "psoft_R.default.vector_b",
            "inner": "psoft_R.default.vector_a",
        },
    ),
    (
        "ia3",
        {},
        "IA3Config",
        {"target_modules": ["k", "v", "fc2"], "feedforward_modules": ["fc2"]},
        {"keys": "ia3_l.default", "values": "ia3_l.default", "scale": "ia3_l.default"},
    ),
    (
        "hira",
        {"rank": 3, "targets": ALL},
        "HiraConfig",
        {"r": 3, "target_modules": THEIR_ALL},
        {"pair.down": "hira_A.default", "pair.up": "hira_B.default"},
    ),
    (
        "loha",
        {"rank": 3, "alpha": 6.0, "targets": ALL},
        "LoHaConfig",
        {"r": 3, "alpha": 6, "target_modules": THEIR_ALL},
        {
            "ups.0": "hada_w1_a.default",
            "downs.0": "hada_w1_b.default",
            "ups.1": "hada_w2_a.default",
            "downs.1": "hada_w2_b.default",
        },
    ),
    (
        "lokr",
        {"rank": 2, "alpha": 6.0, "targets": ALL},
        "LoKrConfig",
        {"r": 2, "alpha": 6, "target_modules": THEIR_ALL},
        {"small": "lokr_w1.default", "up": "lokr_w2_a.default", "down": "lokr_w2_b.default"},
    ),
    (
        "lokr",
        {"rank": 4, "alpha": 6.0},
        "LoKrConfig",
        {"r": 4, "alpha": 6, "target_modules": QV},
        {"small": "lokr_w1.default", "down": "lokr_w2.default"},
    ),
    (
        "lokr",
        {"rank": 2, "alpha": 6.0, "decompose_both": True},
        "LoKrConfig",
        {"r": 2, "alpha": 6, "decompose_both": True, "target_modules": QV},
        {
            "small_up": "lokr_w1_a.default",
            "small": "lokr_w1_b.default",
            "up": "lokr_w2_a.default",
            "down": "lokr_w2_b.default",
        },
    ),
    (
        "delora",
        {"rank": 3, "bound": 2.0, "targets": ALL},
        "DeloraConfig",
        {"r": 3, "delora_lambda": 2, "target_modules": THEIR_ALL},
        {"down": "delora_A.default", "up": "delora_B.default", "bound": "delora_lambda.default"},
    ),
    (
        "shira",
        {"rank": 3, "targets": ALL},
        "ShiraConfig",
        {"r": 3, "target_modules": THEIR_ALL},
        {"values": "shira_weight.default"},
    ),
    (
        "fourierft",
        {"num_coefficients": 40, "targets": ALL},
        "FourierFTConfig",
        {"n_frequency": 40, "scaling": 300.0, "target_modules": THEIR_ALL},
        {"values": "fourierft_spectrum.default"},
    ),
    (
        "waveft",
        {"num_coefficients": 40, "targets": ALL},
        "WaveFTConfig",
        {"n_frequency": 40, "target_modules": THEIR_ALL},
        {"values": "waveft_spectrum.default"},
    ),
    *[
        (
            "road",
            {"variant": variant, "group_size": 16, "targets": ALL},
            "RoadConfig",
            {"variant": variant, "group_size": 16, "target_modules": THEIR_ALL},
            {"angles": "road_theta.default", "scales": "road_alpha.default"},
        )
        for variant in ("road_1", "road_2", "road_4")
    ],
    (
        "c3a",
        {"block_size": 12},
        "C3AConfig",
        {"block_size": 12, "target_modules": QV},
        {"kernels": "c3a_kernel.default"},
    ),
    *[
        (
            "randlora",
            {"rank": 10, "alpha": 40.0, "targets": ALL, "bases": kind},
            "RandLoraConfig",
            {"r": 10, "randlora_alpha": 40, "target_modules": THEIR_ALL} | ({} if kind == "uniform" else {kind: True}),
            {"factors": "randlora_lambda.default", "columns": "randlora_gamma.default"},
        )
        for kind in ("uniform", "sparse", "very_sparse")
    ],
    (
        "miss",
        {"rank": 20, "targets": ALL},
        "MissConfig",
        {"r": 20, "target_modules": THEIR_ALL},
        {"shard": "miss_block.default"},
    ),
    (
        "miss",
        {"rank": 12, "variant": "bat", "targets": ALL},
        "MissConfig",
        {"r": 12, "init_weights": "bat", "target_modules": THEIR_ALL},
        {"shards": "miss_block.default"},
    ),
    (
        "gralora",
        {"rank": 6, "alpha": 9.0, "num_blocks": 3, "targets": ALL},
        "GraloraConfig",
        {"r": 6, "alpha": 9, "gralora_k": 3, "target_modules": THEIR_ALL},
        {"downs": "gralora_A.default", "ups": "gralora_B.default"},
    ),
]


class Apart(nn.Module):
    """A fused qkv as three linear maps."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        for name, weight, bias in zip("qkv", fused.weight.chunk(3), fused.bias.chunk(3), strict=True):
            part = nn.Linear(fused.in_features, len(bias), dtype=torch.float32)
            part.weight, part.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in "qkv"], dim=-1)


def theirs(config: str, options: dict[str, Any]) -> nn.Module:
    net: Any = make("vit_layerscale").net
    for block in net.blocks:
        block.attn.qkv = Apart(block.attn.qkv)
    model: nn.Module = peft.get_peft_model(net, getattr(peft, config)(**options))
    return model.double().eval()


def ours(name: str, options: dict[str, Any]) -> Backbone:
    built = make("vit_layerscale")
    defaults = {"dropout": 0.0} if name in ("lora", "dora") else {}
    install(METHODS.get(name)(**defaults | options), built, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in built.trainable:
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return built.double().eval()


def name_in_library(name: str, names: dict[str, str]) -> str:
    """`net.blocks.0.attn.qkv.changes.2.values` -> `base_model.model.blocks.0.attn.qkv.v.oft_R.default.weight`."""
    place, _, tensor = re.sub(r"\.(changes|deltas|entries)\.", ":", name.removeprefix("net.")).partition(":")
    if not tensor:  # (IA)^3: a vector on the wrapper itself
        place, _, tensor = name.removeprefix("net.").rpartition(".")
        part = {"keys": ".k", "values": ".v"}.get(tensor, "")
    else:
        number, _, tensor = tensor.partition(".")
        part = f".{'qkv'[int(number)]}" if place.endswith("qkv") else ""
    return f"base_model.model.{place}{part}.{names[tensor]}"


def places_as_theirs(mine: Backbone, other: nn.Module, pairs: dict[str, str]) -> None:
    """Trained entries lie where the library draws them, in its order."""
    for name, theirs in pairs.items():
        change: Any = mine.get_submodule(name.rpartition(".")[0])
        layer: Any = other.get_submodule(theirs.rpartition(".")[0].rpartition(".")[0])
        for attribute in ("shira_indices", "indices", "waveft_indices"):
            if hasattr(change, "places") and hasattr(layer, attribute):
                rows, columns = getattr(layer, attribute)["default"].long()
                change.places.copy_(rows * change.shape[1] + columns)


def loss(features: Tensor) -> Tensor:
    return (torch.linspace(-1, 1, features.numel()).view_as(features) * features + 0.1 * features**2).sum()


@pytest.mark.parametrize(
    ("name", "options", "config", "their_options", "names"),
    CASES,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)],
)
def test_features_and_gradients_are_the_librarys(
    double: None,
    butterflies: None,
    name: str,
    options: dict[str, Any],
    config: str,
    their_options: dict[str, Any],
    names: dict[str, str],
) -> None:
    mine, other = ours(name, options), theirs(config, their_options)
    tensors = dict(other.named_parameters())
    pairs = {mine_name: name_in_library(mine_name, names) for mine_name, _ in mine.trainable}
    trained = {key for key, tensor in tensors.items() if tensor.requires_grad}
    assert set(pairs.values()) == trained, "the same tensors train"
    with torch.no_grad():
        for key, tensor in mine.trainable:
            tensors[pairs[key]].copy_(tensor.view_as(tensors[pairs[key]]))
        if name == "vera":
            frozen: Any = other.base_model
            for own, buffers in (("down", frozen.vera_A), ("up", frozen.vera_B)):
                mine.get_buffer(f"shared.projections.{own}").copy_(buffers["default"])
        if name == "randlora":
            for own, buffers in (("small", other.base_model.randlora_A), ("large", other.base_model.randlora_B)):
                if options["bases"] != "uniform":  # which the library draws in half precision
                    drawn = mine.get_buffer(f"shared.bases.{own}")
                    torch.testing.assert_close(drawn, buffers["default"], rtol=0, atol=1e-6)
                mine.get_buffer(f"shared.bases.{own}").copy_(buffers["default"])
    places_as_theirs(mine, other, pairs)
    x = images().double()
    found, expected = mine(x), other(x)
    loss(found).backward()
    loss(expected).backward()
    # the library's circular convolution takes single precision whatever comes in
    limit = 1e-5 if name == "c3a" else 1e-12
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit)
    for key, tensor in mine.trainable:
        if name == "c3a" and not key.startswith("net.blocks.2."):
            # the library's own backward pass hands the gradient of an input on in reverse order, as of 0.21
            continue
        gradient = tensors[pairs[key]].grad
        assert tensor.grad is not None and gradient is not None
        torch.testing.assert_close(tensor.grad, gradient.view_as(tensor), rtol=limit, atol=limit * 10, msg=key)


def test_tinyloras_numbers_mix_the_librarys_fixed_matrices() -> None:
    # q and v: with all six the library counts matrices, and so draws, block by block, where we count role by role
    mine = ours("tinylora", {"rank": 3, "num_mixed": 5})
    other = theirs("TinyLoraConfig", {"r": 3, "u": 5, "target_modules": QV})
    # the library keeps its vectors apart from the maps, under their numbers
    named = {name.rpartition(".")[2]: tensor for name, tensor in other.named_parameters() if tensor.requires_grad}
    vectors = [named[str(number)] for number in range(len(named))]
    assert len(vectors) == len(mine.trainable) == 6
    assert not any(vector.any() for vector in vectors)
    pairs = [(tensor, vector) for (_, tensor), vector in zip(mine.trainable, vectors, strict=True)]
    with torch.no_grad():
        for tensor, vector in pairs:
            vector.copy_(tensor)
    found, expected = mine(images().double()), other(images().double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    loss(found).backward()
    loss(expected).backward()
    for tensor, vector in pairs:
        torch.testing.assert_close(tensor.grad, vector.grad, rtol=1e-12, atol=1e-11)
