"""Words before a run that is allowed and yet likely to disappoint."""

from __future__ import annotations

from pathlib import Path

from peftbench.config.cautions import cautions
from tests.composing import gate


def test_the_embedded_backbone_on_own_photos_says_what_it_is_and_what_to_take(tmp_path: Path) -> None:
    [line] = cautions(gate("dataset=folder", f"dataset.root={tmp_path}")[0])
    assert "trained at 32 px" in line and "backbone=vit_small_dinov2" in line
    # the advice can be followed: the words compose and say no more
    assert cautions(gate("dataset=folder", f"dataset.root={tmp_path}", "backbone=vit_small_dinov2")[0]) == []
    assert cautions(gate("dataset=digits")[0]) == []


def test_a_rate_that_nobody_used_is_named() -> None:
    [line] = cautions(gate("optim.lr=0.5")[0])
    assert "optim.lr=0.5 is outside" in line and "tune=random" in line
    assert cautions(gate("optim=sgd", "optim.lr=0.5")[0]) == []
    # a preset says where its rate is from
    assert cautions(gate("method=linear", "train=short", "hparams=ours")[0]) == []
