"""Where LoRA starts when training images, or the smallest singular values, say so, in double precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import images, installed, look, make, random_evidence
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.methods.base import METHODS, Method, MethodContractError, install
from peftbench.methods.observation import Findings
from tests.golden.test_equations_lowrank import OUT, WIDTH, frozen

RANK, SCALE = 4, 2.0
LOOKING = ("eva", "corda", "corda_kept", "lora_ga")


def lora(init: str, **options: Any) -> Method:
    return METHODS.get("lora")(**{"rank": RANK, "alpha": RANK * SCALE, "dropout": 0.0, "init": init, **options})


def found(init: str, **options: Any) -> Findings:
    seen = look(lora(init, **options), make("vit_layerscale"))
    assert seen is not None
    return {name: tensor.double() for name, tensor in seen.items()}


def inputs(backbone: Backbone) -> Tensor:
    """What the second block's qkv reads of the training images, [images, tokens, width]."""
    block: Any = backbone.net.blocks[1]  # type: ignore[union-attr, index]
    seen: list[Tensor] = []
    handle = block.attn.qkv.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().double()))
    with torch.no_grad():
        for batch in random_evidence(backbone).images(64):
            backbone(batch["image"])
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("init", LOOKING)
def test_the_function_stays_and_the_tensors_are_those_that_were_found(init: str) -> None:
    plain, x = make("vit_layerscale").eval(), images()
    backbone = installed(lora(init), "vit_layerscale").eval()
    torch.testing.assert_close(backbone(x), plain(x), rtol=0, atol=1e-4)
    for name, tensor in found(init).items():
        layer, target, factor = name.split(".")
        place = f"net.blocks.{layer}.attn.qkv.deltas.{OUT[target]}.{factor}"
        own = backbone.get_parameter(place) if len(tensor) else None
        assert own is None or torch.equal(own.detach(), tensor.float())


def test_without_images_it_is_not_installed() -> None:
    with pytest.raises(MethodContractError, match="lora looks at images first"):
        install(lora("eva"), make("vit_layerscale"))


def test_eva_takes_the_directions_in_which_inputs_vary_most() -> None:
    seen, x = found("eva"), inputs(make("vit_layerscale")).flatten(0, 1)
    x = x - x.mean(dim=0)
    _, _, directions = torch.linalg.svd(x, full_matrices=False)
    for target in ("q", "v"):
        down = seen[f"1.{target}.down"]
        cosines = (down @ directions[: len(down)].T).abs()
        torch.testing.assert_close(cosines, torch.eye(len(down), dtype=torch.float64), rtol=0, atol=1e-3)
        assert all(row[row.abs().argmax()] > 0 for row in down)


def test_eva_deals_out_the_ranks_by_explained_variance() -> None:
    seen = found("eva")
    ranks = {name: len(tensor) for name, tensor in seen.items()}
    assert sum(ranks.values()) == 6 * RANK and max(ranks.values()) <= 2 * RANK
    assert len(set(ranks.values())) > 1, "inputs of some blocks vary in fewer directions"
    backbone = installed(lora("eva"), "vit_layerscale")
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == 6 * RANK * 2 * WIDTH
    assert lora("eva").summary(seen)["ranks"]["1.q"] == ranks["1.q.down"]


@pytest.mark.parametrize(("init", "chosen"), [("corda", slice(RANK)), ("corda_kept", slice(-RANK, None))])
def test_corda_cuts_the_weight_seen_through_the_inputs_covariance(init: str, chosen: slice) -> None:
    seen, x = found(init), inputs(make("vit_layerscale"))
    covariance = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    for image in x:
        image = image / image.max().abs()
        covariance += image.T @ image / len(x)
    damping = 0.01
    while True:
        damped = covariance + damping * covariance.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)
        if torch.dist(damped @ damped.inverse(), torch.eye(WIDTH, dtype=torch.float64)) < 0.05:
            break
        damping *= 2
    for target in ("q", "v"):
        u, s, vt = torch.linalg.svd(frozen(target) @ damped)
        expected = u[:, chosen] @ torch.diag(s[chosen]) @ vt[chosen] @ damped.inverse()
        made = SCALE * seen[f"1.{target}.up"] @ seen[f"1.{target}.down"]
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)
        lengths = seen[f"1.{target}.up"].norm(dim=0)
        torch.testing.assert_close(lengths, (s[chosen] / SCALE).sqrt(), rtol=1e-4, atol=1e-6)


def test_lora_ga_takes_singular_vectors_of_the_losss_gradient() -> None:
    seen, backbone = found("lora_ga"), copy.deepcopy(make("vit_layerscale"))
    evidence = random_evidence(backbone)
    model = evidence.classifier(backbone).train()
    weight = backbone.get_parameter("net.blocks.1.attn.qkv.weight").requires_grad_(True)
    batches = list(evidence.images(64))
    (sum(evidence.loss(model, batch) for batch in batches) / len(batches)).backward()
    assert weight.grad is not None
    size = WIDTH**0.25 / 4
    for target in ("q", "v"):
        gradient = weight.grad[OUT[target] * WIDTH : (OUT[target] + 1) * WIDTH].double()
        u, _, vt = torch.linalg.svd(gradient)
        for own, expected in (
            (seen[f"1.{target}.down"], vt[:RANK]),
            (seen[f"1.{target}.up"].T, u[:, RANK : 2 * RANK].T),
        ):
            cosines = (own / size) @ expected.T
            torch.testing.assert_close(cosines.abs(), torch.eye(RANK, dtype=torch.float64), rtol=0, atol=1e-3)


def test_lora_ga_needs_twice_as_many_directions_as_ranks() -> None:
    with pytest.raises(NotApplicable, match="2 x 30 singular vectors of q"):
        found("lora_ga", rank=30)


def test_micas_frozen_side_has_no_rate() -> None:
    with pytest.raises(ConfigError, match=r"method\.up_rate is the rate of B, which method\.init=mica freezes"):
        METHODS.get("lora")(init="mica", up_rate=16.0)


def test_mica_trains_what_the_smallest_directions_are_given() -> None:
    backbone = make("vit_layerscale")
    install(lora("mica"), backbone)
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == 6 * RANK * WIDTH
    pair: Any = backbone.get_submodule("net.blocks.1.attn.qkv.deltas.2")
    assert isinstance(pair, nn.Module) and not pair.down.any()
    # as short as nothing else that is orthogonal: these directions hold the least of W
    held = (pair.up.double().T @ frozen("v")).norm(dim=1)
    smallest = torch.linalg.svdvals(frozen("v"))[-RANK:]
    torch.testing.assert_close(held, smallest, rtol=1e-3, atol=1e-5)
