"""The embedded classifiers: each file is its own network's, and recognises what its card says."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from peftbench.adapters.predictor import backbone_of
from peftbench.backbones.build import build_backbone
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import embedded_file, weights_id

CLASSIFIERS = {
    "vit_micro": "vit_micro_patch4_32",
    "swin_micro": "swin_micro_patch4_window4_32",
    "convnext_micro": "convnext_micro_32",
}


def card_of(name: str) -> tuple[str, dict]:
    """The words beside a file, and the facts inside it."""
    with safe_open(embedded_file(name), "pt") as file:
        return embedded_file(name).with_suffix(".md").read_text(), json.loads(file.metadata()["card"])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_is_read_from_its_own_file_whole(name: str) -> None:
    backbone = build_backbone(BackboneSpec(title=name, model=CLASSIFIERS[name]))
    stored = load_file(embedded_file(name))
    own = backbone.net.state_dict()
    assert own.keys() <= stored.keys() and all(tensor.equal(stored[key].float()) for key, tensor in own.items())
    assert {key.split(".")[0] for key in stored.keys() - own.keys()} == {"head"}
    words, facts = card_of(name)
    assert f"{backbone.shape.num_parameters:,} parameters without classifier" in words
    assert facts["model"] == CLASSIFIERS[name]
    assert f"{100 * facts['cifar10_test_accuracy']:.2f} % on the CIFAR-10 test set" in words


def test_their_identities_differ() -> None:
    assert len({weights_id(BackboneSpec(model=model)) for model in CLASSIFIERS.values()}) == len(CLASSIFIERS)


@pytest.mark.shared
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_stated_accuracy_is_that_of_the_file(name: str, shared: Path) -> None:
    table = pq.read_table(shared / "data" / "cifar10" / "test.parquet").slice(0, 1000)
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in table["image"].to_pylist()]
    labels = torch.tensor(table["label"].to_pylist())
    net = timm.create_model(CLASSIFIERS[name], num_classes=10)
    net.load_state_dict(load_file(embedded_file(name)))
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        right = net.eval()((pixels - mean) / std).argmax(1).eq(labels).float().mean()
    # a sample of a tenth: three standard errors
    assert float(right) == pytest.approx(card_of(name)[1]["cifar10_test_accuracy"], abs=0.04)


@pytest.mark.parametrize("model", [*CLASSIFIERS.values(), "sam_micro_patch4_32"])
def test_an_exported_model_finds_the_file_that_ships(model: str) -> None:
    spec = BackboneSpec(model=model)
    found = backbone_of({"title": "t", "model": model, "img_size": None, "weights": weights_id(spec)})
    assert found.source == "embedded" and weights_id(found) == weights_id(spec)
