"""Files for a predictor, and what to say where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.adapters.predictor import backbone_of, image_files
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import weights_id
from peftbench.foundation.errors import MissingInput


def test_folders_are_searched_in_order_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "notes.txt", ".trash/x.png", "b/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = image_files([tmp_path, tmp_path / "notes.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.jpeg", "b/1.png", "b/2.JPG", "notes.txt"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="there is no image and no folder at nowhere"):
        image_files(["nowhere"])
    with pytest.raises(MissingInput, match="no images in"):
        image_files([tmp_path])


def test_weights_are_found_again_or_asked_for() -> None:
    facts = {"title": "t", "model": "vit_tiny_patch16_224", "img_size": None}
    micro = {**facts, "model": "vit_micro_patch4_32", "weights": weights_id(BackboneSpec())}
    assert backbone_of(micro).source == "embedded"
    assert backbone_of({**facts, "weights": "timm:vit_tiny_patch16_224"}).source == "timm"
    with pytest.raises(MissingInput, match="--checkpoint FILE"):
        backbone_of({**facts, "weights": "sha256:00"})
    assert backbone_of({**facts, "weights": "sha256:00"}, "w.pth").source == "checkpoint"
