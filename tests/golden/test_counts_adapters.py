"""Trainable parameters of the adapter family on ViT-B/16 at 224 px without the classifier, biases included."""

from __future__ import annotations

from typing import Any

import pytest

from tests.golden.counting import Count

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("adapter_pfeiffer", {}, 156_768),
    ("adapter_pfeiffer", {"bottleneck": 64}, 1_189_632),
    ("adapter_pfeiffer", {"bottleneck": 96}, 1_779_840),
    ("adapter_houlsby", {}, 313_536),
    ("convpass", {}, 327_552),
    ("convpass_attn", {}, 163_776),
    ("repadapter", {}, 239_808),
    ("repadapter_attn", {}, 119_904),
    ("compacter", {}, 57_088),
    ("mona", {}, 2_684_928),
    ("adapter_plus", {"bottleneck": 1}, 36_876),
    ("adapter_plus", {}, 165_984),
    ("adapter_plus", {"bottleneck": 16}, 313_536),
    ("adapter_plus", {"place": "pre"}, 165_984),
    # 12 (2 8 768 + 8 + 768), twice that and 24 numbers, and 12 768 3 more
    ("adapter_plus", {"place": "parallel", "scaling": "none"}, 156_768),
    ("adapter_plus", {"place": "houlsby", "scaling": "single"}, 313_560),
    ("adapter_plus", {"place": "intermediate", "norm": True}, 184_416),
    # 2 (50 768 + 12 (50 + 768)), and half of it
    ("arc", {}, 96_432),
    ("arc", {"places": ["attn"]}, 48_216),
    # by hand: 12 blocks, 2 * 768 * 32 each; q and v have two pairs
    ("bi_adaptformer", {}, 589_824),
    ("bi_lora", {}, 1_179_648),
    # published as 0.44 M: 24 768 (8 + 16)
    ("hyperadapter", {}, 442_368),
    # 24 (8 768) and twice that, and a bottleneck 64 -> 32 -> 64 for the keys
    ("fpet", {}, 151_552),
    ("fpet", {"adapter": "lora"}, 299_008),
    # 12 (2 768 16 + 16 + 768 + 769)
    ("dyt", {}, 313_548),
    # 12 (2 768 64 + 64 + 768 + 2 (64 32) + 32 + 64 + 96 64 + 64)
    ("sparse_tuning", {}, 1_314_432),
    ("dyt", {"bottleneck": 64}, 1_198_860),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count
