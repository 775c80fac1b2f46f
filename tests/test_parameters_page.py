"""The table of parameters: its formulas are the methods' own, and all counts known beforehand are in it."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.build import from_timm
from peftbench.methods.base import METHODS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from parameters_page import Row, evaluate, read

# Derived by hand from the papers' equations before the code was written; a method is listed once it is there.
ORACLES = {
    "full": 85_798_656,
    "partial_k": 7_089_408,
    "partial_k (num_blocks=2)": 14_177_280,
    "partial_k (num_blocks=4)": 28_353_024,
    "bitfit": 102_912,
    "ln_tune": 38_400,
    "attn_only": 28_499_712,
    "mlp_only": 56_669_184,
    "difffit": 140_544,
    "gps": 167_424,
    "gps (num_connections=2)": 251_136,
    "adapter_pfeiffer": 156_768,
    "adapter_pfeiffer (bottleneck=64)": 1_189_632,
    "adapter_houlsby": 313_536,
    "adaptformer": 156_768,
    "adaptformer (bottleneck=64)": 1_189_632,
    "convpass": 327_552,
    "convpass_attn": 163_776,
    "sct": 111_744,
    "ttc": 150_144,
    "hyperadapter": 442_368,
    "fpet": 151_552,
    "fpet (adapter=lora)": 299_008,
    "compacter": 57_088,
    "mona": 2_684_928,
    "mam": 341_088,
    "lst": 2_374_284,
    "hst": 764_840,
    "synqt": 2_742_637,
    "synqt (num_tokens=1)": 2_604_397,
    "vit_adapter": 13_680_608,
    "repadapter": 239_808,
    "repadapter_attn": 119_904,
    "hydra": 239_712,
    "ssf": 205_824,
    "lora": 294_912,
    "lora (rank=4)": 147_456,
    "lora (rank=16)": 589_824,
    "lora_qkv_shared": 294_912,
    "dora": 313_344,
    "vera": 24_576,
    "pvera": 30_720,
    "adapter_plus": 165_984,
    "arc": 96_432,
    "oft": 285_696,
    "oft (targets=['q', 'k', 'v', 'proj', 'fc1', 'fc2'])": 1_285_632,
    "boft": 313_344,
    "boft (targets=['q', 'k', 'v', 'proj', 'fc1', 'fc2'])": 1_410_048,
    "goft": 18_408,
    "goft (scale=True)": 36_840,
    "qgoft": 73_632,
    "karst": 1_204_296,
    "hra": 147_456,
    "beft": 9_216,
    "psoft": 81_144,
    "lora_xs": 6_144,
    "ia3": 55_296,
    "rlrr": 288_768,
    "hira": 1_179_648,
    "loha": 589_824,
    "delora": 294_936,
    "mlae": 1_180_032,
    "lora_vpt": 2_203_104,
    "glora": 1_603_776,
    "snell": 1_327_104,
    "fourierft": 72_000,
    "waveft": 62_208,
    "shira": 147_456,
    "apla": 73_824,
    "apla (num_rows=768)": 7_087_104,
    "cara": 45_024,
    "cvpt": 92_160,
    "vfpt": 92_160,
    "e2vpt": 138_240,
    "fact_tt (rank=4)": 8_448,
    "fact_tt (rank=8)": 21_504,
    "fact_tt": 61_440,
    "fact_tk (rank=16)": 30_976,
    "fact_tk": 86_528,
    "krona (rows=24, columns=32)": 36_864,
    "kadaptation": 50_176,
    "snf": 36_864,
    "snf (num_flows=16)": 627_072,
    "vpt_shallow (num_tokens=100)": 76_800,
    "vpt_deep (num_tokens=1)": 9_216,
    "vpt_deep (num_tokens=5)": 46_080,
    "vpt_deep": 92_160,
    "vpt_deep (num_tokens=50)": 460_800,
    "prefix": 184_320,
    "prefix (num_tokens=20)": 368_640,
    "vqt": 9_216,
    "vqt (num_tokens=10)": 92_160,
    "patt": 239_712,
    "bapat": 396_480,
    "dtl": 36_864,
    "dtl_plus": 43_776,
    "dtl_plus (kernel_size=5)": 56_064,
    "noah_subnet": 320_330,
}
ROWS = read()
by_label = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.method.label)


@cache
def shape(model: str, **options: int) -> BackboneShape:
    with torch.device("meta"):
        return from_timm(timm.create_model(model, pretrained=False, num_classes=0, **options)).shape


@by_label
def test_the_formula_in_symbols_is_the_methods_own(row: Row) -> None:
    vit_b16 = shape("vit_base_patch16_224")
    assert row.evaluate(vit_b16) == row.method.expected_params(vit_b16)
    if row.holds == "everywhere":
        tiny = shape("vit_tiny_patch16_224", img_size=40, patch_size=8, embed_dim=96, depth=5, num_heads=3)
        assert row.evaluate(tiny) == row.method.expected_params(tiny)


def test_every_count_known_beforehand_is_in_the_table() -> None:
    vit_b16 = shape("vit_base_patch16_224")
    found = {row.method.label: row.evaluate(vit_b16) for row in ROWS}
    known = {label: count for label, count in ORACLES.items() if label.split(" (")[0] in METHODS.names()}
    assert {label: found.get(label) for label in known} == known


def test_formulas_are_read_as_they_are_printed() -> None:
    assert evaluate("2 L (D h + h)^2 / g - 3", {"L": 2, "D": 3, "h": 2, "g": 4}) == 61
    assert evaluate("2 D^2 L + 7", {"D": 3, "L": 5}) == 97
    for wrong in ("L / 2", "(L", "L )", "L + L * L"):
        with pytest.raises((ValueError, KeyError)):
            evaluate(wrong, {"L": 3})
