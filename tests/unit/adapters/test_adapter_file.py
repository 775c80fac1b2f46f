"""The adapter file holds what a cell adds, and nothing of the backbone."""

from __future__ import annotations

import pytest
import timm
import torch

from peftbench.adapters.file import (
    adapter_bytes,
    adapter_tensors,
    file_bytes,
    load_adapter,
    read_adapter,
    take_findings,
)
from peftbench.backbones.build import from_timm
from peftbench.contracts.backbones import make
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.methods.base import METHODS, install
from peftbench.tasks.model import Classifier


def swin_with(method: str, seed: int = 0) -> tuple[Classifier, tuple[torch.Tensor, ...]]:
    net = timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=0,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 2),
        img_size=32,
        window_size=4,
    )
    backbone = from_timm(net)
    frozen = tuple(backbone.buffers())
    install(METHODS.get(method)(), backbone, seed)
    return Classifier(backbone, 5, seed), frozen


def test_frozen_buffers_stay_out_although_wrapping_renames_them():
    model, frozen = swin_with("adaptformer")
    assert frozen, "this backbone must have buffers for the test to mean anything"
    tensors = adapter_tensors(model, frozen)
    assert set(tensors) == {name for name, tensor in model.named_parameters() if tensor.requires_grad}


def test_a_round_trip_gives_the_same_function(tmp_path):
    model, frozen = swin_with("lora")
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.requires_grad:
                tensor.add_(0.1)
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(adapter_tensors(model, frozen), {"seed": 0}, "0" * 16))
    tensors, metadata = read_adapter(path)
    assert metadata == {"config": '{"seed": 0}', "fingerprint": "0" * 16}
    other, _ = swin_with("lora", seed=1)
    other.load_state_dict({name: t for name, t in model.state_dict().items() if name not in tensors}, strict=False)
    load_adapter(other, tensors, path)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(images), other.eval()(images))


def test_the_same_tensors_and_metadata_give_the_same_bytes(tmp_path):
    tensors, metadata = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}, {name: name * 3 for name in "fedcba"}
    [content] = {file_bytes(tensors, metadata) for _ in range(20)}
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    found, said = read_adapter(path)
    assert said == metadata and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_what_does_not_fit_is_named(tmp_path):
    model, frozen = swin_with("lora")
    tensors = adapter_tensors(model, frozen)
    with pytest.raises(BadInput, match=r"head\.bias"):
        load_adapter(model, {name: tensor for name, tensor in tensors.items() if name != "head.bias"}, tmp_path)
    with pytest.raises(BadInput, match="stranger"):
        load_adapter(model, tensors | {"stranger": torch.zeros(1)}, tmp_path)
    with pytest.raises(MissingInput, match="there is no adapter at"):
        read_adapter(tmp_path / "none.safetensors")


def test_findings_travel_in_the_file_and_what_follows_from_them_does_not(tmp_path):
    model, frozen = swin_with("lora")
    model.backbone.register_buffer("follows", torch.arange(3), persistent=False)
    found = {"0": torch.tensor([4, 2])}
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(adapter_tensors(model, frozen, found), {}, "f"))
    tensors, _ = read_adapter(path)
    assert "backbone.follows" not in tensors
    taken = take_findings(tensors)
    assert taken is not None and taken.keys() == {"0"} and taken["0"].tolist() == [4, 2]
    load_adapter(model, tensors, path)
    assert take_findings(tensors) is None


# frozen factors of the weights, of a seed, places drawn from a seed; and whose numbers turn with the seed
@pytest.mark.parametrize(
    ("method", "options", "buffer"),
    [
        ("psoft", {"rank": 4}, "net.layers.0.blocks.0.attn.qkv.deltas.0.down"),
        ("lora", {"init": "mica", "rank": 2}, "net.layers.0.blocks.0.attn.qkv.deltas.0.up"),
        ("vera", {"rank": 4}, "shared.projections.up"),
        ("apla", {"num_rows": 3}, "net.layers.0.blocks.0.attn.proj.places"),
    ],
)
def test_frozen_tensors_that_come_out_differently_are_told_and_rounding_is_not(tmp_path, method, options, buffer):
    def build() -> Classifier:
        backbone = make("swin")
        install(METHODS.get(method)(**options), backbone)
        return Classifier(backbone, 5, 0)

    model, path = build(), tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(adapter_tensors(model, []), {}, "f"))
    tensors, _ = read_adapter(path)
    assert not any(name.endswith(buffer) for name in tensors)
    load_adapter(build(), tensors, path)
    load_adapter(build(), {name: tensor for name, tensor in tensors.items() if name != "made_again"}, path)
    turned, rounded = build(), build()
    own = turned.backbone.get_buffer(buffer)
    # one singular vector the other way round, or one place elsewhere
    (own[0] if own.is_floating_point() else own).neg_()
    with pytest.raises(BadInput, match="come out differently here"):
        load_adapter(turned, tensors, path)
    own = rounded.backbone.get_buffer(buffer)
    if own.is_floating_point():
        own.copy_(own.bfloat16())
    load_adapter(rounded, tensors, path)
