"""Trainable parameters of the tuners beside frozen operations, on ViT-B/16 at 224 px, known beforehand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.golden.counting import Count

COUNTS: list[tuple[str, dict[str, Any], int]] = [
    # by hand: 12 (2 * 10 * 768) + 12 (2 * 768 * 8 + 8 + 768)
    ("u_tuning", {}, 341_088),
    ("u_tuning", {"block": "adapter"}, 497_856),
    ("u_tuning", {"attention": "adapter", "bottleneck": 64}, 2 * 1_189_632),
    ("u_tuning", {"attention": "none"}, 156_768),
    # by hand: 12 (24 * 32 + 32 * 24), and one number for each block
    ("krona_b", {}, 18_432),
    ("krona_b_res", {}, 18_444),
    # by hand: 10 * 768 + 800 * 769 + 2 * 768 * 12 * 801
    ("prefix", {"mlp_width": 800}, 15_386_912),
    ("mam", {"mlp_width": 800}, 15_386_912 + 156_768),
]


@pytest.mark.parametrize(("name", "options", "count"), COUNTS, ids=str)
def test_count_on_vit_b16(count_on_vit_b16: Count, name: str, options: dict[str, Any], count: int) -> None:
    assert count_on_vit_b16(name, options) == count
