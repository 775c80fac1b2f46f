"""Trainable parameters on ViT-B/16 of the methods that look at images first, with findings written down by hand.

D = 768, L = 12, M = 3072. GPS: D + L (3 D + D + M + D) = 83,712 rows. SCT: L (K^2 + K) with K = 96.
TTC: the same and 2 D (2 L + 1) of the norms.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.methods.base import METHODS, MethodContractError, install
from peftbench.objectives.base import OBJECTIVES

WIDTHS = {"embed": 768, "attn.qkv": 2304, "attn.proj": 768, "mlp.fc1": 3072, "mlp.fc2": 768}


def number_of(backbone: Backbone, role: str, layer: int) -> int:
    """Place of a site among all sites, under which its findings are kept."""
    places = [(site.shape.role, site.layer) for site in backbone.all_sites]
    return places.index((role, layer))


def counted(name: str, vit_b16: Backbone, findings: dict[str, Tensor], **options: Any) -> int:
    method, backbone = METHODS.get(name)(**options), copy.deepcopy(vit_b16)
    install(method, backbone, findings=findings)
    total = sum(parameter.numel() for _, parameter in backbone.trainable)
    assert method.expected_with(vit_b16.shape, findings) == total
    return total


@pytest.mark.parametrize(("num_connections", "count"), [(1, 167_424), (2, 251_136)])
def test_gps(vit_b16: Backbone, num_connections: int, count: int) -> None:
    found = {
        str(number): torch.arange(num_connections).expand(WIDTHS[site.shape.role], -1)
        for number, site in enumerate(vit_b16.all_sites)
        if site.shape.role in WIDTHS
    }
    assert counted("gps", vit_b16, found, num_connections=num_connections) == count
    assert METHODS.get("gps")(num_connections=num_connections).expected_params(vit_b16.shape) == count


def test_sct(vit_b16: Backbone) -> None:
    found = {str(layer): torch.arange(96) * 8 for layer in range(12)}
    assert counted("sct", vit_b16, found) == 111_744 == METHODS.get("sct")().expected_params(vit_b16.shape)
    assert counted("sct", vit_b16, found, place="mlp") == 111_744


def test_ttc(vit_b16: Backbone) -> None:
    channels = {str(layer): torch.arange(96) * 8 for layer in range(12)}
    norms = {f"norm.{number}.{part}": torch.ones(768) for number in range(25) for part in ("weight", "bias")}
    assert counted("ttc", vit_b16, channels | norms) == 150_144 == METHODS.get("ttc")().expected_params(vit_b16.shape)


def test_self_prompt(vit_b16: Backbone) -> None:
    found = {str(layer): torch.zeros(20, 768) for layer in range(12)}
    assert (
        counted("self_prompt", vit_b16, found) == 184_320 == METHODS.get("self_prompt")().expected_params(vit_b16.shape)
    )
    assert counted("self_prompt", vit_b16, {"0": torch.zeros(100, 768)}, num_tokens=100, deep=False) == 76_800


def test_vipamin(vit_b16: Backbone) -> None:
    assert counted("vipamin", vit_b16, {"0": torch.zeros(100, 768)}) == 76_800
    found = {str(layer): torch.zeros(20, 768) for layer in range(12)}
    assert counted("vipamin", vit_b16, found, num_tokens=20, deep=True) == 184_320


def test_pae(vit_b16: Backbone) -> None:
    found = {str(layer): torch.zeros(20, 768) for layer in range(12)}
    assert counted("pae", vit_b16, found) == 184_320 == METHODS.get("pae")().expected_params(vit_b16.shape)
    # K and L, and 256 x 768 that lift a prompt
    assert OBJECTIVES.get("pae")().expected_params(vit_b16.shape, 100) == 2 * 65_536 + 196_608


def test_da_vpt(vit_b16: Backbone) -> None:
    found = {"groups": torch.arange(100) % 10, "centroids": torch.zeros(10, 768)}
    # 11 x 20 and 10 prompts, the class token, 12 norms, a third of 12 biases of qkv and three other biases of 12 blocks
    assert counted("da_vpt", vit_b16, found) == 230 * 768 + 768 + 12 * 1536 + 4 * 12 * 768 == 232_704
    biases = ["q_bias", "k_bias", "v_bias", "proj_bias", "fc2_bias", "norm2_bias"]
    assert counted("da_vpt", vit_b16, found, beside=biases, guided_depth=3) == 210 * 768 + 6 * 12 * 768


def test_spt(vit_b16: Backbone) -> None:
    qkv, fc1, norm = (number_of(vit_b16, role, 3) for role in ("attn.qkv", "mlp.fc1", "norm.2"))
    found = {
        f"{qkv}.weight": torch.tensor([5, 900_000]),
        f"{qkv}.modules": torch.tensor([0, 2]),
        f"{fc1}.modules": torch.tensor([0]),
        f"{norm}.bias": torch.arange(768),
        "class_token": torch.tensor(768),
    }
    # class token, vector and two entries; q and v: 8 (768 + 768) each; fc1: 8 (768 + 3072)
    assert counted("spt_lora", vit_b16, found) == 2 * 768 + 2 + 2 * 12_288 + 30_720
    # q and v: 2 * 8 * 768 + 8 + 768 each; fc1: 2 * 8 * 3072 + 8 + 3072
    assert counted("spt_adapter", vit_b16, found) == 2 * 768 + 2 + 2 * 13_064 + 52_232


def test_noah(vit_b16: Backbone) -> None:
    # the sub-net released for cifar100, the block sizes of which sum to 69 prompts, 56 ranks and 73 units
    prompts = [10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10]
    ranks = [10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1]
    widths = [5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1]
    assert counted("noah_supernet", vit_b16, {"sizes": torch.tensor([prompts, ranks, widths])}) == 320_330
    # modules that stand in the first blocks only: 3 (768 + 3072) and 3 (2 * 768 + 1 + 768) for sizes of 1
    shallow = [1, 1, 1] + [0] * 9
    assert counted("noah_supernet", vit_b16, {"sizes": torch.tensor([shallow] * 3)}) == 3 * 3840 + 3 * 2305


def test_findings_of_another_count_are_noticed(vit_b16: Backbone) -> None:
    found = {str(layer): torch.arange(95) for layer in range(12)}
    with pytest.raises(MethodContractError, match="sct trains 109440 parameters; its formula gives 111744"):
        install(METHODS.get("sct")(), copy.deepcopy(vit_b16), findings=found)
