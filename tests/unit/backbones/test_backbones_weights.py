"""Checkpoints: what loads, what is resampled, and what is refused in one line."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from peftbench.backbones.build import build_backbone
from peftbench.backbones.checkpoint import read_checkpoint
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import weights_id
from peftbench.backbones.weights import load_weights
from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError

MODEL = "vit_micro_patch4_32"


def spec(path: Path, **options: object) -> BackboneSpec:
    return BackboneSpec(model=MODEL, checkpoint=str(path), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random tensors of the embedded architecture, with a classifier nobody wants."""
    generator = torch.Generator().manual_seed(5)
    net = timm.create_model(MODEL, num_classes=10)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in net.state_dict().items()}


def refused(load: Callable[[], object], kind: type[PeftbenchError] = BadInput) -> str:
    with pytest.raises(kind) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_safetensors_and_pth_load_the_same_tensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "c.pth")
    torch.save({"state_dict": state}, tmp_path / "d.pth")
    for path in sorted(tmp_path.iterdir()):
        loaded = build_backbone(spec(path)).net.state_dict()
        assert set(loaded) == {name for name in state if not name.startswith("head.")}
        assert all(torch.equal(loaded[name], state[name]) for name in loaded), path.name


@pytest.mark.parametrize("name", ["weights.pth", "weights", "weights.safetensors"])
@pytest.mark.parametrize("form", [save_file, torch.save])
def test_a_file_is_read_as_what_it_is_whatever_its_name(
    state: dict[str, Tensor], tmp_path: Path, form: Callable[..., None], name: str
) -> None:
    form(state, tmp_path / name)
    found = read_checkpoint(tmp_path / name)
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_half_precision_checkpoints_become_fp32(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    net = build_backbone(spec(tmp_path / "a.safetensors")).net
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert torch.equal(net.norm.weight, state["norm.weight"].half().float())  # type: ignore[union-attr]


def test_positions_are_resampled_to_another_image_size(state: dict[str, Tensor], tmp_path: Path) -> None:
    position = torch.randn(1, 1, 128).expand(1, 65, 128).clone()
    position[:, 0] = 7.0
    save_file(state | {"pos_embed": position}, tmp_path / "a.safetensors")
    net = build_backbone(spec(tmp_path / "a.safetensors", img_size=48)).net
    resampled: Tensor = net.pos_embed.detach()  # type: ignore[union-attr, assignment, operator]
    assert resampled.shape == (1, 1 + 12 * 12, 128)
    # interpolating a constant field gives the constant; the class token has no place and is not interpolated
    torch.testing.assert_close(resampled[:, 1:], position[:, 1:2].expand(1, 144, 128))
    assert torch.equal(resampled[:, :1], position[:, :1])


def test_patches_of_another_size_are_said(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A file of ViT-B/32 fits a ViT-B/16 once it is resampled, and is another network."""
    kernel = torch.randn(128, 3, 8, 8)
    save_file(state | {"patch_embed.proj.weight": kernel}, tmp_path / "a.safetensors")
    backbone = build_backbone(spec(tmp_path / "a.safetensors"))
    assert "patches of 8x8 pixels resampled to 4x4 (is backbone.model this file's?)" in backbone.weights_read
    save_file(state, tmp_path / "a.safetensors")
    assert "patches" not in build_backbone(spec(tmp_path / "a.safetensors")).weights_read


def test_tensors_missing_and_too_many_are_both_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.5.")}
    save_file(wrong | {"blocks.0.extra.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    message = refused(lambda: build_backbone(spec(tmp_path / "a.safetensors")))
    assert "12 tensors missing (blocks.5." in message and "1 not of this model (blocks.0.extra.weight)" in message
    assert "backbone.model" in message


def test_another_width_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state | {"norm.weight": torch.zeros(64)}, tmp_path / "a.safetensors")
    assert "norm.weight" in refused(lambda: build_backbone(spec(tmp_path / "a.safetensors")))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint" * 50], ids=["empty", "text"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(lambda: build_backbone(spec(tmp_path / name)))
    assert str(tmp_path / name) in message and "weights_only" not in message


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_truncated_file_is_refused(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "complete?" in refused(lambda: build_backbone(spec(path)))


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    for name in ("a.pth", "b.pth"):
        refused(lambda name=name: build_backbone(spec(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"epoch": 3}, {"norm.weight": "word"}], ids=type)
def test_a_pth_without_a_dictionary_of_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert str(tmp_path / "a.pth") in refused(lambda: build_backbone(spec(tmp_path / "a.pth")))


def test_a_missing_file_names_the_option_and_where_to_get_it(tmp_path: Path) -> None:
    hint = "download it from example.org"
    message = refused(lambda: build_backbone(spec(tmp_path / "gone.pth", download=hint)), MissingInput)
    assert "backbone.checkpoint=" in message and "gone.pth" in message and hint in message


def test_the_identity_of_weights_is_the_digest_of_their_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    assert weights_id(spec(tmp_path / "a.safetensors")) == f"sha256:{digest}"
    assert weights_id(BackboneSpec(model=MODEL, weights="none")) == "none"


def to_jax(state: dict[str, Tensor], heads: int) -> dict[str, np.ndarray]:
    """A ViT in the layout of the JAX release: kernels [in, out], separate query, key and value by head."""
    w = {name: tensor.numpy() for name, tensor in state.items()}
    width = w["norm.weight"].size
    out = {
        "embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": w["patch_embed.proj.bias"],
        "cls": w["cls_token"],
        "Transformer/posembed_input/pos_embedding": w["pos_embed"],
        "Transformer/encoder_norm/scale": w["norm.weight"],
        "Transformer/encoder_norm/bias": w["norm.bias"],
    }
    for layer in range(6):
        new, old = f"Transformer/encoderblock_{layer}/", f"blocks.{layer}."
        for there, here in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            out[f"{new}{there}/scale"], out[f"{new}{there}/bias"] = w[f"{old}{here}.weight"], w[f"{old}{here}.bias"]
        attention = f"{new}MultiHeadDotProductAttention_1/"
        kernels = np.split(w[f"{old}attn.qkv.weight"], 3)
        biases = np.split(w[f"{old}attn.qkv.bias"], 3)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            out[f"{attention}{part}/kernel"] = kernel.T.reshape(width, heads, width // heads)
            out[f"{attention}{part}/bias"] = bias.reshape(heads, width // heads)
        out[f"{attention}out/kernel"] = w[f"{old}attn.proj.weight"].T.reshape(heads, width // heads, width)
        out[f"{attention}out/bias"] = w[f"{old}attn.proj.bias"]
        for number, here in enumerate(("fc1", "fc2")):
            out[f"{new}MlpBlock_3/Dense_{number}/kernel"] = w[f"{old}mlp.{here}.weight"].T
            out[f"{new}MlpBlock_3/Dense_{number}/bias"] = w[f"{old}mlp.{here}.bias"]
    return out


def test_npz_in_the_jax_layout_loads_every_tensor(state: dict[str, Tensor], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **to_jax(state, heads=4))  # type: ignore[arg-type]
    loaded = build_backbone(spec(tmp_path / "a.npz")).net.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)


def test_npz_of_another_layout_or_a_deeper_model_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    assert "JAX layout" in refused(lambda: build_backbone(spec(tmp_path / "a.npz")))
    short = {name: array for name, array in to_jax(state, heads=4).items() if "encoderblock_5" not in name}
    np.savez(tmp_path / "b.npz", **short)  # type: ignore[arg-type]
    assert str(tmp_path / "b.npz") in refused(lambda: build_backbone(spec(tmp_path / "b.npz")))


def test_npz_with_pickled_objects_is_refused_and_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"embedding/kernel": np.array([Payload(tmp_path / "ran")], dtype=object)})
    refused(lambda: build_backbone(spec(tmp_path / "a.npz")))
    assert not (tmp_path / "ran").exists()


def test_a_wrapped_checkpoint_loads_into_any_module(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "a.safetensors")
    linear = nn.Linear(3, 2)
    load_weights(linear, tmp_path / "a.safetensors")
    assert torch.equal(linear.weight, torch.ones(2, 3))


@pytest.mark.shared
def test_real_vit_small_dinov2_weights_at_another_size(shared: Path) -> None:
    path = shared / "weights" / "vit_small_patch14_dinov2_saliency.safetensors"
    backbone = build_backbone(BackboneSpec(model="vit_small_patch14_dinov2", checkpoint=str(path), img_size=98))
    shape = backbone.shape
    assert (shape.width, shape.depth, shape.grid, shape.num_prefix_tokens) == (384, 12, (7, 7), 1)
    tensors = read_checkpoint(path)
    assert torch.equal(backbone.net.blocks[11].mlp.fc2.weight, tensors["blocks.11.mlp.fc2.weight"].float())  # type: ignore[index, union-attr]
    with torch.no_grad():
        features = backbone.eval()(torch.randn(1, 3, 98, 98, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (1, 384) and features.isfinite().all() and features.std() > 0.1
