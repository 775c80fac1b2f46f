"""The T5 that writes answers: VL-T5's reading, the library's likelihoods and search, sites and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftbench.backbones.build import build_backbone
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import weights_id
from peftbench.backbones.t5 import T5Tower
from peftbench.backbones.tokenizers import Pieces
from peftbench.backbones.vl_t5 import VLT5
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from peftbench.methods.base import METHODS, install
from tests.tiny_t5 import write_tiny_t5

ANSWERS = ("red", "dark blue", "two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5") / "tiny"
    write_tiny_t5(folder, ANSWERS)
    return folder


def both_of(folder: Path) -> VLT5:
    built = build_backbone(BackboneSpec(writer=str(folder)))
    assert isinstance(built, VLT5)
    return built


def read_as_released(net: Any, ids: Tensor, seen: Tensor) -> Tensor:
    """VL-T5's JointEncoder: words ahead of the image, relative positions of words among words alone."""
    length, total = ids.shape[1], ids.shape[1] + seen.shape[1]
    attention = net.encoder.block[0].layer[0].SelfAttention
    bias = torch.zeros(1, net.config.num_heads, total, total, dtype=seen.dtype)
    bias[:, :, :length, :length] = attention.compute_bias(length, length)
    real = torch.cat([ids != 0, torch.ones(seen.shape[:2], dtype=torch.bool)], dim=1)
    bias = bias.masked_fill(~real[:, None, None], torch.finfo(seen.dtype).min)
    x = torch.cat([net.shared(ids), seen], dim=1)
    for block in net.encoder.block:
        x = block(x, position_bias=bias)[0]
    return net.encoder.final_layer_norm(x)  # type: ignore[no-any-return]


@torch.no_grad()
def test_it_reads_as_vl_t5_does_and_padding_changes_nothing(folder: Path) -> None:
    # the softmax of older versions of the library is in single precision
    tower = both_of(folder).text.double().eval()
    ids = torch.tensor([[3, 5, 7, 1], [4, 1, 0, 0]])
    seen = torch.randn(2, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    read, real = tower.read(ids, seen)
    expected = read_as_released(tower.net, ids, seen)
    words = torch.cat([expected[:, 4:], expected[:, :4]], dim=1)
    torch.testing.assert_close(read[real], words[real], rtol=0, atol=1e-6)
    assert real.sum(dim=1).tolist() == [10, 8]
    alone, _ = tower.read(ids[1:, :2], seen[1:])
    torch.testing.assert_close(read[1:, :8], alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_likelihoods_and_searches_are_the_librarys(folder: Path) -> None:
    tower = both_of(folder).text.eval()
    rows = tower.rows(ANSWERS)
    assert rows[0].tolist()[-1] == tower.pad and tower.texts(rows) == list(ANSWERS)
    seen = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(0))
    read, real = tower.read(torch.tensor([[3, 1]] * 3), seen)
    labels = rows.masked_fill(rows == tower.pad, -100)
    net: Any = tower.net
    expected = net(encoder_outputs=(read,), attention_mask=real.long(), labels=labels)
    torch.testing.assert_close(tower.likelihoods(read, real, rows), expected.logits)
    # one beam takes the likeliest next token each time
    written = tower.write(read, real, beams=1, longest=4)[:, 1:]
    again = tower.likelihoods(read, real, written).argmax(dim=-1)
    ended = (written == tower.end).cumsum(dim=1) - (written == tower.end).long() > 0
    assert torch.equal(written[~ended], again[~ended])
    assert tower.write(read, real, beams=3, longest=4).shape[0] == 3


def test_adapters_stand_where_vl_t5s_do(folder: Path) -> None:
    """Behind attention and MLP of two encoder and three decoder blocks, and behind the decoder's cross-attention."""
    both = both_of(folder)
    install(METHODS.get("vl_adapter")(reduction=8, towers=["text"]), both, 0)
    norms = 2 * 2 + 3 * 3 + 2
    assert sum(tensor.numel() for _, tensor in both.trainable) == 13 * (2 * 32 * 4 + 4 + 32) + norms * 32
    adapters = [module for module in both.text.modules() if type(module).__name__ == "Bottleneck"]
    assert [len(half.all_of(type(adapters[0]))) for half in both.text.stacks] == [4, 9]
    # T5's library leaves linear maps that it does not know as PyTorch starts them, biases too
    for linear in (linear for adapter in adapters for linear in (adapter.down, adapter.up)):
        most = linear.in_features**-0.5
        for tensor in (linear.weight, linear.bias):
            assert 0.5 * most < tensor.abs().max() <= most
    both = both_of(folder)
    install(METHODS.get("mixphm")(bottleneck=8, towers=["text"]), both, 0)
    heard = type(next(m for m in both.text.modules() if type(m).__name__ == "MixedBottleneck"))
    assert [len(half.all_of(heard)) for half in both.text.stacks] == [2, 3]


def test_a_gated_t5_is_read_as_well(tmp_path: Path) -> None:
    """T5 v1.1 and Flan-T5: two maps into the MLP, and a map to words that is not the table of tokens."""
    net = write_tiny_t5(tmp_path, ANSWERS, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    tower = both_of(tmp_path).text.eval()
    assert len(tower.sites("mlp.fc1")) == 2 * 5
    state, own = net.state_dict(), tower.net.state_dict()
    assert state.keys() == own.keys() and all(torch.equal(state[name], own[name]) for name in state)


def test_its_files_are_part_of_the_identity(folder: Path, tmp_path: Path) -> None:
    assert weights_id(BackboneSpec(writer=str(folder))).startswith(weights_id(BackboneSpec()) + "+sha256:")
    changed = shutil.copytree(folder, tmp_path / "changed")
    text = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(text | {"dropout_rate": 0.2}))
    assert weights_id(BackboneSpec(writer=str(changed))) != weights_id(BackboneSpec(writer=str(folder)))


def test_what_is_no_t5_gets_one_line(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        lacking = shutil.copytree(folder, tmp_path / f"no-{name}")
        (lacking / name).unlink()
        with pytest.raises(MissingInput, match=f"there is no {name}"):
            both_of(lacking)
    with pytest.raises(MissingInput, match="is not a folder"):
        both_of(folder / "config.json")
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="is no vocabulary"):
        both_of(damaged)
    described = json.loads((folder / "config.json").read_text())
    for change, said in (({"model_type": "bart"}, "no T5"), ({"d_model": 64}, "by its config.json")):
        (damaged / "config.json").write_text(json.dumps(described | change))
        with pytest.raises(BadInput, match=said):
            both_of(damaged)
    (damaged / "config.json").write_text(json.dumps(described))
    tensors = load_file(folder / "model.safetensors")
    first = next(iter(tensors))
    for name, tensor, said in (
        ("extra.weight", torch.zeros(2), "has extra.weight, which has no place here"),
        (first, torch.full_like(tensors[first], torch.nan), f"{first} holds NaN or infinite numbers"),
    ):
        save_file(tensors | {name: tensor}, damaged / "model.safetensors", {"format": "pt"})
        shutil.copy(folder / "tokenizer.json", damaged / "tokenizer.json")
        with pytest.raises(BadInput, match=said):
            both_of(damaged)
    (damaged / "config.json").write_text("[")
    with pytest.raises(BadInput, match="does not describe a T5"):
        both_of(damaged)
    with pytest.raises(ConfigError, match="has one"):
        BackboneSpec(title="pair_micro", text="micro", writer=str(folder))


def test_an_image_task_sees_its_image_tower(folder: Path) -> None:
    both, image = both_of(folder).eval(), build_backbone(BackboneSpec()).eval()
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both(pictures), image(pictures))
    assert isinstance(both.readout, nn.Module) and both.shape.at("block") == image.shape.at("block")


@torch.no_grad()
def test_maps_of_its_mlp_can_be_wrapped(folder: Path) -> None:
    """The library's own MLP asks its last map for a weight, which a wrapper has not."""
    both, plain = both_of(folder).eval(), both_of(folder).eval()
    ids, seen = torch.tensor([[3, 5, 1]]), torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    install(METHODS.get("lora")(rank=2, targets=["proj", "fc1", "fc2"], towers=["text"]), both, 0)
    torch.testing.assert_close(both.text.read(ids, seen)[0], plain.text.read(ids, seen)[0], rtol=0, atol=1e-6)
    assert len([name for name, _ in both.trainable if ".mlp" in name or "DenseReluDense" in name]) == 2 * 2 * 5


@pytest.mark.parametrize(
    ("method", "count"),
    [
        # 24 MLPs, as the paper says 0.87M
        ("mixphm", 874_048),
        # 60 adapters of 148,320 and 62 norms
        ("vl_adapter", 60 * 148_320 + 62 * 768),
    ],
)
def test_counts_on_t5_base(method: str, count: int) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
    with torch.device("meta"):
        tower = T5Tower(T5ForConditionalGeneration(T5Config(**sizes)), Pieces(None))
        install(METHODS.get(method)(), tower, 0)
    assert sum(tensor.numel() for _, tensor in tower.trainable) == count
