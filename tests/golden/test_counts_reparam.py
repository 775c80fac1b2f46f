"""Trainable parameters of the selective and re-parameterising methods on ViT-B/16 at 224 px, without the classifier.

Numbers derived by hand from the equations, D = 768, L = 12, M = 3072, 197 tokens.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from peftbench.backbones.base import Backbone
from peftbench.methods.base import METHODS, install
from tests.golden.counting import Count

ALL = ["q", "k", "v", "proj", "fc1", "fc2"]
COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("partial_k", {}, 7_089_408),
    ("partial_k", {"num_blocks": 2}, 14_177_280),
    ("partial_k", {"num_blocks": 4}, 28_353_024),
    ("ln_tune", {}, 38_400),
    ("attn_only", {}, 28_499_712),
    ("attn_only", {"position_embedding": False}, 28_348_416),
    ("attn_only", {"position_embedding": False, "num_blocks": 3}, 7_087_104),
    ("attn_only", {"position_embedding": False, "num_blocks": 3, "part": "qkv"}, 5_315_328),
    # 12 (768^2 + 768)
    ("attn_only", {"position_embedding": False, "part": "proj"}, 7_087_104),
    ("mlp_only", {}, 56_669_184),
    ("mlp_only", {"num_blocks": 3}, 14_167_296),
    # 12 (768 * 3072 + 3072) and 12 (768 * 3072 + 768)
    ("mlp_only", {"part": "fc1"}, 28_348_416),
    ("mlp_only", {"part": "fc2"}, 28_320_768),
    ("block_only", {}, 21_263_616),
    ("difffit", {}, 140_544),
    ("lora_qkv_shared", {}, 294_912),
    ("fact_tt", {"rank": 4}, 8_448),
    ("fact_tt", {"rank": 8}, 21_504),
    ("fact_tt", {"rank": 16}, 61_440),
    ("fact_tk", {"rank": 16}, 30_976),
    ("fact_tk", {"rank": 32}, 86_528),
    ("hydra", {}, 239_712),
    ("krona", {}, 36_864),
    ("krona", {"rows": 24, "columns": 32}, 36_864),
    # A [768, 1], B [1, 768]: 24 (768 + 768)
    ("krona", {"rows": 768, "columns": 1}, 36_864),
    # A [12, 12], B [64, 64]: 24 (144 + 4096)
    ("krona", {"rows": 12, "columns": 12}, 101_760),
    ("kadaptation", {}, 50_176),
    ("snf", {}, 36_864),
    # 24 (8 * 1536 + 768), and 48 of those plus 12 (8 * 3840 + 3072) plus 12 (8 * 3840 + 768)
    ("dora", {}, 313_344),
    ("dora", {"targets": ["q", "k", "v", "proj", "fc1", "fc2"]}, 1_410_048),
    ("vera", {}, 24_576),
    ("vera", {"targets": ["q", "k", "v", "proj", "fc1", "fc2"]}, 101_376),
    ("pvera", {}, 30_720),
    ("lora", {"init": "pissa"}, 294_912),
    ("lora", {"init": "olora", "scaling": "rank_root"}, 294_912),
    # 24 times 24 blocks of 496 numbers, and 24 + 2 x 48 of the widths of proj, fc1 and fc2 besides
    ("oft", {}, 285_696),
    ("oft", {"targets": ALL}, 1_285_632),
    # m 768 b + 768 for each of 24, and of all six
    ("boft", {}, 313_344),
    ("boft", {"block_size": 4, "num_factors": 1}, 92_160),
    ("boft", {"targets": ALL}, 1_410_048),
    ("hra", {}, 147_456),
    # 12 4 (3 768 + 2 768): with heads 0.22 M of VTAB-1k and 0.36 M of FGVC, as printed; without B A 110,592
    ("hta", {}, 184_320),
    ("hta", {"rank": 0}, 110_592),
    ("hta", {"rank": 0, "targets": ALL}, 221_184),
    # 12 768, and 3 4 (224 + 224)
    ("beft", {}, 9_216),
    ("lor_vp", {}, 5_376),
    # 12 (8 (4 64 + 8 (4 + 2 + 5 + 5) 96) + 6), and 12 (2 (4 4 + 4 (4 + 2 + 5 + 5) 384) + 6)
    ("karst", {}, 1_204_296),
    ("karst", {"factor": 2, "rank": 4, "num_kernels": 2}, 590_280),
    # 24 times 767, 1535 with factors, and four times 767
    ("goft", {}, 18_408),
    ("goft", {"scale": True}, 36_840),
    ("qgoft", {}, 73_632),
    # 72 (46 45 / 2 + 92)
    ("psoft", {}, 81_144),
    # as snell, and three numbers for each of 72 matrices
    ("snella", {}, 1_327_320),
    ("lora_xs", {}, 6_144),
    ("lora_xs", {"rank": 136, "targets": ALL}, 1_331_712),
    ("ia3", {}, 55_296),
    ("hira", {}, 1_179_648),
    ("loha", {}, 589_824),
    # 24 (24 24 + 2 8 32), and 48 of those, 12 (24 48 + 8 96) and the same again
    ("lokr", {}, 26_112),
    ("lokr", {"targets": ALL}, 98_304),
    # 24 (8 (24 + 24) + 8 (32 + 32))
    ("lokr", {"decompose_both": True}, 21_504),
    ("delora", {}, 294_936),
    ("mlae", {}, 1_180_032),
    # 24 x 768, 72 widths of outputs 12 (5 x 768 + 3072), twice and four times as many
    ("road", {}, 18_432),
    ("road", {"targets": ALL}, 82_944),
    ("road", {"targets": ALL, "variant": "road_2"}, 165_888),
    ("road", {"variant": "road_4"}, 73_728),
    # 24 x 768^2 / b
    ("c3a", {}, 55_296),
    ("c3a", {"block_size": 768}, 18_432),
    # 24 (32 x 24 + 24 x 768), and 72 of those: n counts the shorter side
    ("randlora", {}, 460_800),
    ("randlora", {"targets": ALL}, 1_382_400),
    ("randlora", {"rank": 256}, 73_728),
    ("miss", {}, 1_179_648),
    ("miss", {"rank": 8, "targets": ALL}, 663_552),
    ("miss", {"variant": "bat"}, 1_179_648),
    ("gralora", {}, 1_179_648),
    ("tinylora", {}, 1_536),
    # 12 (4,608 + 1,536 + 6,144 + 6,144 + 6,912) and 12 x 6,912 biases and 25 norms
    ("consolidator", {}, 425_472),
    ("vapt", {}, 55_608),
    # 100 x 768 + 11 gates + 12 temperatures
    ("gated_prompt", {}, 76_823),
    ("sa2vp", {}, 372_912),
    ("sa2vp", {"hidden_dim": 8}, 202_200),
    ("sa2vp", {"hidden_dim": 32}, 714_336),
    ("sa2vp", {"hidden_dim": 64}, 1_397_184),
    ("shira", {}, 147_456),
    ("shira", {"rank": 32}, 1_179_648),
    ("fourierft", {}, 72_000),
    ("fourierft", {"num_coefficients": 1000}, 24_000),
    ("waveft", {}, 62_208),
    ("apla", {}, 73_824),
    ("apla", {"num_rows": 768}, 7_087_104),
    ("snell", {}, 1_327_104),
    ("snell", {"rank": 32}, 5_308_416),
    ("snell", {"class_token": True}, 1_327_104 + 768),
    # all supports of the super-network
    ("glora", {}, 1_603_776),
    # one number for each output of scale and shift of weights and biases, and 768 or 3072 inputs
    ("glora", dict.fromkeys(("scale", "shift", "prompt", "bias_scale", "bias_shift"), "vector"), 396_288),
    ("lora_vpt", {}, 2_203_104),
    ("cara", {}, 45_024),
    ("cara", {"rank": 32}, 85_440),
    ("lora", {"down_seed": 0}, 147_456),
    ("lora", {"up_rate": 16.0}, 294_912),
    # 12 (4 (768 + 2 768) + 768 + 2 3072 + 3072 + 2 768) and 4 768 13
    ("rlrr", {}, 288_768),
    ("rlrr", {"norms": False}, 248_832),
    ("snf", {"num_flows": 5}, 221_304),
    ("snf", {"num_flows": 16}, 627_072),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count


@pytest.mark.parametrize(
    ("name", "layers"), [("partial_k", {11}), ("block_only", {9, 10, 11}), ("mlp_only", set(range(12)))]
)
def test_trained_blocks_are_the_last_ones(vit_b16: Backbone, name: str, layers: set[int]) -> None:
    backbone = copy.deepcopy(vit_b16)
    install(METHODS.get(name)(), backbone)
    names = [name.split(".") for name, _ in backbone.trainable]
    assert {int(parts[2]) for parts in names if parts[1] == "blocks"} == layers
    assert {parts[1] for parts in names} == ({"blocks", "norm"} if name == "partial_k" else {"blocks"})


def test_kronecker_rules_take_the_size_the_width_allows(vit_b16: Backbone) -> None:
    backbone = copy.deepcopy(vit_b16)
    install(METHODS.get("kadaptation")(**{"num_rules": 40}), backbone)  # the largest divisor of 768 up to 40 is 32
    assert backbone.get_parameter("shared.rules_q.left").shape == (32, 32)
