"""Pairs: published sizes, the function of transformers' CLIP and SigLIP, what a causal tower lets one leave out."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import activations
from torch import nn
from torch.nn import functional as F

from peftbench.backbones import pair as pair_module
from peftbench.backbones.build import build_backbone, from_timm
from peftbench.backbones.class_texts import ClassTexts
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.pair import Pair
from peftbench.backbones.pair_weights import load_pair
from peftbench.backbones.source import weights_files, weights_id
from peftbench.backbones.text import build_text
from peftbench.backbones.text_options import TEXTS, TextSpec
from peftbench.backbones.tokenizers import Pieces, Words, micro_words, rows_of, tokenizer_of
from peftbench.contracts.backbones import PAIR, make, samples
from peftbench.foundation.errors import BadInput, MissingInput

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2}
SIZES = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = TextSpec(48, 2, 2, 40, 12, 90, start=88, end=89)


@pytest.mark.parametrize(
    "model, text, image_count, text_count",
    [
        ("vit_base_patch16_clip_quickgelu_224", "clip_512", 86_192_640, 63_428_096),
        ("vit_base_patch32_clip_quickgelu_224", "clip_512", 87_849_216, 63_428_096),
        ("vit_large_patch14_clip_quickgelu_224", "clip_768", 303_966_208, 123_650_304),
    ],
)
def test_sizes_are_those_of_openais_releases(model: str, text: str, image_count: int, text_count: int) -> None:
    with torch.device("meta"):
        image = from_timm(timm.create_model(model, num_classes=0))
        pair = Pair(image, build_text(TEXTS[text]), Words([]))

    def count(*names: str) -> int:
        return sum(p.numel() for name, p in pair.named_parameters() if name.startswith(names))

    assert count("image") == image_count
    assert count("text") == text_count
    assert pair.shape.num_parameters == image_count + text_count + 1


def clip(tmp_path: Path, act: str = "quick_gelu") -> tuple[Any, Pair, Path]:
    """transformers' CLIP with random weights, a pair of its shape, and its file; OpenCLIP's for `act` gelu."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes, ends = SIZES | {"hidden_act": act}, {"bos_token_id": 88, "eos_token_id": 89}
    config = CLIPConfig(
        text_config=sizes | {"vocab_size": 90, "max_position_embeddings": 12} | ends,
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=40,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    name = "vit_base_patch16_clip_quickgelu_224" if act == "quick_gelu" else "vit_base_patch16_clip_224"
    net = timm.create_model(name, num_classes=0, **VIT)
    spec = replace(TEXT, activation=act)
    return model, Pair(from_timm(net, 32), build_text(spec), Words([])), tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["clip_512", "openclip_512"])
def test_transformers_clip_is_read_and_computes_the_same(name: str, tmp_path: Path) -> None:
    """In double: the forms of GELU differ by little."""
    model, pair, path = clip(tmp_path, TEXTS[name].activation)
    assert "text tower" in load_pair(pair, path)
    ids = rows_of(TEXT, [[5, 6, 7], [8], [9, 3, 4, 1, 2, 6]])
    pair.classes = ClassTexts(pair.text.cut(ids), 1)
    images = torch.randn(4, 3, 32, 32).double()
    with torch.no_grad():
        given = {"input_ids": ids, "pixel_values": images, "attention_mask": torch.ones_like(ids)}
        expected = model.double()(**given).logits_per_image
        torch.testing.assert_close(pair.double().eval()(images), expected, rtol=1e-9, atol=1e-9)


def test_openais_names_hold_the_same_tensors(tmp_path: Path) -> None:
    _, pair, path = clip(tmp_path)
    load_pair(pair, path)
    match: Any = pair.match
    renamed: dict[str, torch.Tensor] = {"logit_scale": match.logit_scale.detach()}
    parts = {
        "attn.qkv.": "attn.in_proj_",
        "attn.proj.": "attn.out_proj.",
        "mlp.fc1.": "mlp.c_fc.",
        "mlp.fc2.": "mlp.c_proj.",
    }
    parts |= {"norm1.": "ln_1.", "norm2.": "ln_2."}
    for tower, prefix in (("image", "visual.transformer.resblocks."), ("text", "transformer.resblocks.")):
        for name, tensor in pair.towers[tower].net.state_dict().items():
            if name.startswith("blocks."):
                for mine, theirs in parts.items():
                    name = name.replace(mine, theirs)
                renamed[prefix + name.removeprefix("blocks.")] = tensor
    image, text = pair.image.net.state_dict(), pair.text.net.state_dict()
    renamed |= {
        "visual.conv1.weight": image["patch_embed.proj.weight"],
        "visual.class_embedding": image["cls_token"].reshape(-1),
        "visual.positional_embedding": image["pos_embed"][0],
        "visual.proj": pair.image_projection.weight.detach().T,
        "text_projection": pair.text_projection.weight.detach().T,
        "token_embedding.weight": text["token_embed.weight"],
        "positional_embedding": text["pos_embed"][0],
    }
    for kind in ("weight", "bias"):
        renamed[f"visual.ln_pre.{kind}"], renamed[f"visual.ln_post.{kind}"] = (
            image[f"norm_pre.{kind}"],
            image[f"norm.{kind}"],
        )
        renamed[f"ln_final.{kind}"] = text[f"norm.{kind}"]
    save_file({name: tensor.contiguous().clone() for name, tensor in renamed.items()}, tmp_path / "openai.safetensors")
    _, other, _ = clip(tmp_path)
    load_pair(other, tmp_path / "openai.safetensors")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in pair.state_dict().items())
    finer = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, **(VIT | {"patch_size": 4}))
    read = load_pair(Pair(from_timm(finer, 32), build_text(TEXT), Words([])), tmp_path / "openai.safetensors")
    assert "its patches of 8x8 pixels resampled to 4x4" in read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A photo of Red - Blue!", "a photo of red blue"),
        ("baby's  breath (flower)", "babys breath flower"),
        ("ice_skating_rink / outdoor .", "ice skating rink outdoor"),
        ("fish &amp; chips", "fish chips"),
    ],
)
def test_siglips_texts_are_canonicalised_as_by_big_vision(text: str, read: str) -> None:
    """Punctuation that stands alone leaves no second space, for which SigLIP 2's vocabulary has a piece."""
    seen: list[str] = []

    def encode(text: str, add_special_tokens: bool) -> SimpleNamespace:
        seen.append(text)
        return SimpleNamespace(ids=[len(text)])

    assert Pieces(SimpleNamespace(encode=encode), plain=True).pieces(text) == [len(read)]
    assert seen == [read]


@pytest.mark.parametrize("name", ["siglip_768", "siglip2_768"])
def test_transformers_siglip_is_read_and_computes_the_same(name: str, tmp_path: Path) -> None:
    """In double, where the exact GELU that timm has in this image tower would show."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=SIZES | {"vocab_size": 90, "max_position_embeddings": 12, "projection_size": 48},
        vision_config=SIZES | {"image_size": 32, "patch_size": 8},
    )
    model = SiglipModel(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, tmp_path / "model.safetensors")
    net = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, **VIT)
    spec = replace(TEXTS[name], width=48, depth=2, num_heads=2, joint=48, context=12, num_tokens=90)
    pair = Pair(from_timm(net, 32), build_text(spec), Words([]))
    load_pair(pair, tmp_path / "model.safetensors")
    ids = rows_of(spec, [[5, 6, 7], [8]])
    pair.classes = ClassTexts(pair.text.cut(ids), 1)
    images = torch.randn(3, 3, 32, 32).double()
    with torch.no_grad():
        expected = model.double()(input_ids=ids, pixel_values=images).logits_per_image
        torch.testing.assert_close(pair.double().eval()(images), expected, rtol=1e-9, atol=1e-9)


def test_a_file_without_a_text_tower_and_one_of_another_size_are_refused(tmp_path: Path) -> None:
    model, pair, path = clip(tmp_path)
    own = {name: t.contiguous() for name, t in model.state_dict().items()}
    save_file({n: t for n, t in own.items() if n.startswith("vision")}, tmp_path / "image.safetensors")
    with pytest.raises(BadInput, match="holds no text tower"):
        load_pair(pair, tmp_path / "image.safetensors")
    wider = Pair(pair.image, build_text(replace(TEXT, context=14)), Words([]))
    with pytest.raises(BadInput, match=r"pos_embed is \[1, 12, 48\], this backbone's \[1, 14, 48\]"):
        load_pair(wider, path)


def pair_of_five() -> Pair:
    pair = make(PAIR)
    assert isinstance(pair, Pair)
    return pair


def test_nothing_behind_the_end_of_a_text_reaches_its_feature() -> None:
    pair = pair_of_five()
    words = micro_words()
    ids = rows_of(pair.text.spec, [words.pieces("a red circle."), words.pieces("seven")])
    other = ids.clone()
    other[1, 4:] = 7
    with torch.no_grad():
        whole, cut, changed = (pair.text(rows) for rows in (ids, pair.text.cut(ids), other))
    assert pair.text.cut(ids).shape == (2, 6)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(changed, whole, rtol=1e-5, atol=1e-6)


def test_classes_in_another_order_give_the_logits_in_that_order() -> None:
    pair = pair_of_five()
    names, order = list(pair.class_names), [3, 0, 4, 1, 2]
    with torch.no_grad():
        logits = pair(samples(pair))
        pair.read_classes([names[place] for place in order], pair.templates)
        torch.testing.assert_close(pair(samples(pair)), logits[:, order])
        pair.read_classes(names[:3], pair.templates)
        torch.testing.assert_close(pair(samples(pair)), logits[:, :3])


def test_several_templates_are_averaged_at_length_one() -> None:
    pair = pair_of_five()
    templates = ("a photo of a {}.", "the {}")
    pair.read_classes(["red circle", "drop"], templates)
    words = micro_words()
    with torch.no_grad():
        each = [
            pair.text_projection(
                pair.text(rows_of(pair.text.spec, [words.pieces(t.format(n)) for n in pair.class_names]))
            )
            for t in templates
        ]
        expected = sum(w / w.norm(dim=1, keepdim=True) for w in each) / 2
        torch.testing.assert_close(pair.class_features(torch.zeros(1, 64)), expected)


def test_texts_are_read_once_until_what_they_depend_on_changes() -> None:
    pair = pair_of_five()
    calls = []
    pair.text.register_forward_hook(lambda *_: None)
    pair.text.net.register_forward_hook(lambda *_: calls.append(1))
    images = samples(pair)
    with torch.no_grad():
        first = pair(images)
        pair(images)
        assert len(calls) == 1, "nothing of the texts trains"
        pair.text.net.blocks[0].mlp.fc1.weight.add_(0.1)
        assert not torch.equal(pair(images), first) and len(calls) == 2
    pair.text.net.blocks[0].mlp.fc1.weight.requires_grad_(True)
    pair.train()
    pair(images)
    assert pair(images).requires_grad and len(calls) == 4, "in training they change with every step"
    pair.eval()
    with torch.inference_mode():
        pair(images)
        pair(images)
    assert len(calls) == 5


def test_words_are_split_and_unknown_ones_named() -> None:
    words = micro_words()
    assert words.pieces("Row0_column1.".replace("_", " ")) == words.pieces("row zero column one .")
    with pytest.raises(BadInput, match=r"does not know 'cirle'.*circle"):
        words.pieces("a red cirle")
    with pytest.raises(BadInput, match="does not fit 12 positions"):
        rows_of(TEXT, [[1] * 11])


def test_the_vocabulary_of_clip_is_asked_for_where_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="bpe_simple_vocab"):
        tokenizer_of(TEXTS["clip_512"], None, [tmp_path / "model.safetensors"])
    with pytest.raises(MissingInput, match=r"gone\.json is not a file; the tokenizer\.json of"):
        tokenizer_of(TEXTS["siglip_768"], str(tmp_path / "gone.json"), [])
    (tmp_path / "v.json").write_text("{}")
    with pytest.raises(BadInput, match="is no vocabulary"):
        tokenizer_of(TEXTS["clip_512"], str(tmp_path / "v.json"), [])


def test_the_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "cat": 1}, unk_token="a")).save(str(tmp_path / "v.json"))
    with pytest.raises(BadInput, match="it has 2 pieces and the tower 49,408"):
        tokenizer_of(TEXTS["clip_512"], str(tmp_path / "v.json"), [])
    (tmp_path / "notes.txt").write_text("a list\nof words\nand nothing else\n")
    with pytest.raises(BadInput, match="of its lines 1 join two pieces, and 48,894 are needed"):
        tokenizer_of(TEXTS["clip_512"], str(tmp_path / "notes.txt"), [])
    with pytest.raises(BadInput, match="piece number 90 and the text tower 90 of them"):
        rows_of(TEXT, [[5, 90]])


def test_the_embedded_pair_is_read_at_another_size() -> None:
    """Position embeddings are resampled, as for a network of images alone; all else is what it was."""
    spec = BackboneSpec(model="vit_micro_d4_patch8_32", text="micro")
    own, larger = (build_backbone(replace(spec, img_size=size)).state_dict() for size in (None, 48))
    assert [name for name in own if own[name].shape != larger[name].shape] == ["image.net.pos_embed"]
    assert larger["image.net.pos_embed"].shape == (1, 37, 128)
    assert all(
        torch.equal(tensor, larger[name]) for name, tensor in own.items() if not name.endswith("image.net.pos_embed")
    )


def test_a_cell_is_identified_by_its_vocabulary_too(tmp_path: Path) -> None:
    """The same weights under another vocabulary read other words: that is another cell, known before any model is."""
    weights, beside, other = (tmp_path / name for name in ("model.safetensors", "tokenizer.json", "other.json"))
    spec = BackboneSpec(text="clip_512", checkpoint=str(weights))
    weights.write_bytes(b"w")
    with pytest.raises(MissingInput, match="the text tower needs its vocabulary: set"):
        weights_id(spec)
    beside.write_text("a")
    other.write_text("b")
    named = replace(spec, vocabulary=str(other))
    assert weights_files(named) == (weights, other) and weights_files(spec) == (weights, beside)
    assert weights_id(named) != weights_id(spec)
    other.write_text("a")
    assert weights_id(named) == weights_id(spec), "the place is no part of it"


def test_byte_pairs_are_merged_as_clip_merges_them(tmp_path: Path) -> None:
    """Of three merges: 256 bytes, the same as ends of words, then the merges in their order."""
    merges = ["#version", "d o", "do g</w>", "c a", ""]
    with gzip.open(tmp_path / "bpe.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(merges))
    spec = replace(TEXTS["clip_512"], num_tokens=512 + 3 + 2)
    code = tokenizer_of(spec, str(tmp_path / "bpe.txt.gz"), [])
    t_at_the_end = 256 + ord("t") - 33
    assert code.pieces("DOG  cat") == [513, 514, t_at_the_end]
    assert code.pieces("cat &amp;amp; dog") == [514, t_at_the_end, 256 + ord("&") - 33, 513]


def test_every_exact_gelu_of_an_image_tower_becomes_the_tanh_form() -> None:
    net = nn.Sequential(nn.GELU(), activations.GELU(), nn.Sequential(nn.GELU("tanh"), nn.ReLU()))
    pair_module._use_tanh(net)
    x = torch.linspace(-3, 3, 50)
    assert all(torch.equal(module(x), F.gelu(x, approximate="tanh")) for module in (net[0], net[1], net[2][0]))
    assert type(net[2][1]) is nn.ReLU
