"""Checkpoint layouts: official releases and transformers' files load into timm models and compute the same function."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from peftbench.backbones.build import build_backbone
from peftbench.backbones.layouts import find_state
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import weights_files, weights_id
from peftbench.backbones.weights import load_weights
from peftbench.foundation.errors import BadInput, MissingInput

MODEL = "vit_micro_patch4_32"
SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def tiny(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**(SIZES | {"num_classes": 0} | options))


def randomised(net: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in net.state_dict().items()}


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def loads(content: Any, expected: dict[str, Tensor], path: Path, net: nn.Module | None = None, **options: Any) -> str:
    """Saved as a .pth and loaded, every tensor is the expected one; returns what the loader said."""
    net = net or tiny()
    torch.save(content, path)
    words = load_weights(net, path, **options)
    loaded = net.state_dict()
    assert loaded.keys() <= expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    return words


STATE, OTHER = randomised(tiny()), randomised(tiny(), 6)
HEADS = {"head.weight": torch.zeros(3, 32), "head.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "encoder.", "base_model.model.", "a.b."],
)
@pytest.mark.parametrize("key", ["", "state_dict", "model", "student"])
def test_a_common_prefix_is_stripped_and_nested_keys_are_opened(prefix: str, key: str, tmp_path: Path) -> None:
    tensors = under(prefix, STATE) | {"classifier.weight": torch.zeros(3, 32)}
    words = loads({key: tensors, "epoch": 3} if key else tensors, STATE, tmp_path / "a.pth")
    assert (f"under '{prefix}'" in words) == bool(prefix) and (f"from '{key}'" in words) == bool(key)
    assert "left out: classifier" in words


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "teacher"])
def test_the_moving_average_is_taken_and_said_and_the_raw_weights_on_demand(key: str, tmp_path: Path) -> None:
    raw = "student" if key == "teacher" else "state_dict"
    content = {raw: OTHER, key: STATE}
    assert f"from '{key}'" in loads(content, STATE, tmp_path / "a.pth")
    assert f"from '{raw}'" in loads(content, OTHER, tmp_path / "b.pth", ema=False)
    flat = under(f"{raw}.backbone.", OTHER) | under(f"{key}.backbone.", STATE)
    assert f"under '{key}.backbone.'" in loads({"model": flat}, STATE, tmp_path / "c.pth")
    identities = [BackboneSpec(checkpoint="a.pth", ema=ema).identity() for ema in (True, False)]
    assert "ema" not in identities[0] and identities[1]["ema"] is False


def test_two_models_as_good_as_each_other_are_not_chosen_between(tmp_path: Path) -> None:
    torch.save(under("a.", STATE) | under("b.", OTHER), tmp_path / "a.pth")
    with pytest.raises(BadInput, match=r"a\.pth: the file holds 2 models under 'a\.', 'b\.'"):
        load_weights(tiny(), tmp_path / "a.pth")


def test_arguments_and_numpy_scalars_are_read_without_running_anything(tmp_path: Path) -> None:
    extras = {"args": argparse.Namespace(lr=0.1, sizes=[1, 2]), "best": np.float64(81.2), "step": np.int64(3)}
    loads(
        {"model": STATE, "curve": np.arange(3.0), "optimizer": {"state": {0: {}}}} | extras, STATE, tmp_path / "a.pth"
    )


def test_official_dino_mae_ibot_dinov2_and_moco_files_load(tmp_path: Path) -> None:
    dino = {
        "student": under("module.backbone.", OTHER) | under("module.head.", {"mlp.0.weight": torch.zeros(2, 32)}),
        "teacher": under("backbone.", STATE) | under("head.", {"last_layer.weight_v": torch.zeros(2, 32)}),
        "args": argparse.Namespace(arch="vit_small"),
        "epoch": 99,
    }
    assert "from 'teacher'" in loads(dino, STATE, tmp_path / "dino.pth")
    mae = STATE | {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 17, 16)}
    mae |= under("decoder_blocks.0.", {"attn.qkv.weight": torch.zeros(48, 16)})
    words = loads({"model": mae}, STATE, tmp_path / "mae.pth")
    assert "left out: decoder_blocks, decoder_pos_embed, mask_token" in words
    ibot = {"state_dict": STATE | {"masked_embed": torch.zeros(1, 32)} | HEADS}
    assert "left out: head, masked_embed" in loads(ibot, STATE, tmp_path / "ibot.pth")
    moco = under("module.base_encoder.", STATE | HEADS) | under("module.momentum_encoder.", OTHER | HEADS)
    loads({"state_dict": moco, "arch": "vit_small"}, STATE, tmp_path / "moco.pth")
    chunked = {
        re.sub(r"^blocks\.(\d)", lambda match: f"blocks.{int(match[1]) // 2}.{match[1]}", name): tensor
        for name, tensor in STATE.items()
    }
    loads({"teacher": under("backbone.", chunked) | under("dino_head.", HEADS)}, STATE, tmp_path / "dinov2.pth")


def test_official_dinov2_registers_load(tmp_path: Path) -> None:
    net = partial(tiny, reg_tokens=4, no_embed_class=True, init_values=1.0)
    state = randomised(net())
    position = torch.randn(1, 1, 32)
    official = {name: tensor for name, tensor in state.items() if name not in ("reg_token", "cls_token", "pos_embed")}
    official |= {
        "register_tokens": state["reg_token"],
        "cls_token": state["cls_token"] - position,
        "pos_embed": torch.cat([position, state["pos_embed"]], 1),
    }
    # the class token is a sum of two, so it is equal up to rounding only
    expected = state | {"cls_token": official["cls_token"] + position}
    for mask in ({"mask_token": torch.zeros(1, 32)}, {}):
        loads(official | mask, expected, tmp_path / "a.pth", net())


def eva(**options: Any) -> Eva:
    """A tiny DINOv3, as timm builds them."""
    torch.manual_seed(0)
    return Eva(
        **SIZES,
        num_classes=0,
        global_pool="token",
        **{
            "qkv_bias": False,
            "init_values": 1.0,
            "rope_type": "dinov3",
            "rope_temperature": 100,
            "rope_rotate_half": True,
            "use_rot_pos_emb": True,
            "use_abs_pos_emb": False,
            "num_reg_tokens": 4,
            "use_fc_norm": False,
            "norm_layer": partial(nn.LayerNorm, eps=1e-5),
            "dynamic_img_size": True,
            **options,
        },
    )


def official_dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"}
    official = {}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        official[name] = tensor
    return official


def test_official_dinov3_files_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = randomised(eva())
    official = official_dinov3(state)
    periods = eva().rope.periods.bfloat16()
    official |= {"mask_token": torch.zeros(1, 32), "rope_embed.periods": periods}
    for number in range(2):
        # of the keys' third the mask makes nothing of it
        bias = torch.cat([torch.zeros(32), torch.ones(32), torch.zeros(32)])
        official[f"blocks.{number}.attn.qkv.bias"] = bias
        official[f"blocks.{number}.attn.qkv.bias_mask"] = 1 - bias
    net = eva()
    words = loads(official, state, tmp_path / "a.pth", net)
    assert "left out: mask_token, qkv.bias (all zero), rotary periods (made anew in float32)" in words
    assert torch.equal(net.rope.periods, eva().rope.periods)
    assert capsys.readouterr().out == ""
    official["blocks.1.attn.qkv.bias"] = torch.full((96,), 0.01)
    with pytest.raises(BadInput, match=r"blocks\.1\.attn\.qkv\.bias is not zero.*'qkvb'"):
        loads(official, state, tmp_path / "b.pth", eva())


def test_official_deit3_files_load(tmp_path: Path) -> None:
    """`models_v2.py`: the scales of layers are parameters of the block, and no position is the class token's."""
    net = partial(
        timm.create_model,
        "deit3_base_patch16_224",
        num_classes=0,
        img_size=32,
        depth=2,
        embed_dim=32,
        num_heads=2,
    )
    state = randomised(net())
    official = {re.sub(r"ls([12])\.gamma$", r"gamma_\1", name): tensor for name, tensor in state.items()}
    assert {"blocks.0.gamma_1", "blocks.1.gamma_2"} <= official.keys() and official["pos_embed"].shape[1] == 4
    assert "from 'model'; left out: head" in loads({"model": official | HEADS}, state, tmp_path / "a.pth", net())
    # BEiT has its own under these names
    beit = Beit(**SIZES, num_classes=0, init_values=0.1)
    loads({"model": randomised(beit)}, randomised(beit), tmp_path / "b.pth", beit)


def test_official_dinov3_biases_load_into_the_network_that_has_them(tmp_path: Path) -> None:
    net = eva(qkv_bias=True, qkv_fused=True)
    state = {name: tensor for name, tensor in randomised(net).items() if not name.endswith("k_bias")}
    official = official_dinov3(state)
    for number in range(2):
        place = f"blocks.{number}.attn."
        queries, values = (official.pop(f"{place}{kind}_bias") for kind in "qv")
        official[f"{place}qkv.bias"] = torch.cat([queries, torch.ones(32), values])
    torch.save(official, tmp_path / "a.pth")
    assert "qkv.bias" not in load_weights(net, tmp_path / "a.pth")
    loaded = net.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_eva02_as_pre_trained_loads_into_the_network_of_its_mean_tokens(tmp_path: Path) -> None:
    net = Eva(**{**SIZES, "num_classes": 0, "use_rot_pos_emb": True, "use_fc_norm": True, "global_pool": "avg"})
    state = randomised(net)
    official = {name.replace("fc_norm.", "norm."): tensor for name, tensor in state.items()}
    official |= {"mask_token": torch.zeros(1, 1, 32), "lm_head.weight": torch.zeros(8, 32)}
    words = loads({"module": official}, state, tmp_path / "a.pth", net)
    assert "its norm as fc_norm" in words and "left out: lm_head, mask_token" in words


def test_the_average_of_an_i_jepa_file_wins_over_its_raw_encoder(tmp_path: Path) -> None:
    content = {"encoder": under("module.", OTHER), "target_encoder": under("module.", STATE), "epoch": 300}
    assert "from 'target_encoder'" in loads(content, STATE, tmp_path / "a.pth")
    assert "from 'encoder'" in loads(content, OTHER, tmp_path / "b.pth", ema=False)


def openai_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    rules = (
        ("patch_embed.proj", "conv1"),
        ("norm_pre", "ln_pre"),
        (".norm1.", ".ln_1."),
        (".norm2.", ".ln_2."),
        (".attn.qkv.", ".attn.in_proj_"),
        (".attn.proj.", ".attn.out_proj."),
        (".mlp.fc1.", ".mlp.c_fc."),
        (".mlp.fc2.", ".mlp.c_proj."),
        ("blocks.", "transformer.resblocks."),
    )
    official = {}
    for name, tensor in state.items():
        name = re.sub(r"^norm\.", "ln_post.", name)
        for ours, theirs in rules:
            name = name.replace(ours, theirs)
        official[name] = tensor
    official["class_embedding"] = official.pop("cls_token").flatten()
    official["positional_embedding"] = official.pop("pos_embed")[0]
    return official | {"proj": torch.zeros(32, 16)}


@pytest.mark.parametrize("prefix", ["visual.", "module.visual.", ""])
def test_official_clip_towers_load(prefix: str, tmp_path: Path) -> None:
    net = partial(tiny, pre_norm=True)
    state = randomised(net())
    content = under(prefix, openai_clip(state))
    if prefix:
        content["logit_scale"] = torch.zeros(())
        content |= {"token_embedding.weight": torch.zeros(9, 4), "transformer.resblocks.0.ln_1.weight": torch.zeros(4)}
    assert "OpenAI's CLIP" in loads(content, state, tmp_path / "a.pth", net())


def torchscript(state: dict[str, Tensor], path: Path) -> None:
    """An archive as OpenAI's, from which these tensors can be had and which is code all the same."""
    whole = nn.Module()
    for name, tensor in state.items():
        *folders, last = name.split(".")
        place = whole
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, nn.Module())
            place = getattr(place, folder)
        place.register_buffer(last, tensor)
    whole.forward = lambda x: x  # type: ignore[method-assign]
    torch.jit.save(torch.jit.trace(whole, torch.zeros(1)), path)


@pytest.mark.filterwarnings("error:.*TorchScript", "ignore:.*torch.jit")
def test_an_archive_of_code_is_refused_and_the_advice_can_be_followed(tmp_path: Path) -> None:
    net, path = partial(tiny, pre_norm=True), tmp_path / "ViT-B-16.pt"
    state = {name: tensor.half().float() for name, tensor in randomised(net()).items()}
    archive = {name: tensor.half() for name, tensor in under("visual.", openai_clip(state)).items()}
    sizes = {name: torch.tensor(77) for name in ("input_resolution", "context_length", "vocab_size")}
    torchscript(archive | sizes | {"transformer.resblocks.0.ln_1.weight": torch.zeros(4)}, path)
    with pytest.raises(BadInput, match="TorchScript, which holds code") as refused:
        load_weights(net(), path)
    [advice] = re.findall(r"name that file: (.*)$", str(refused.value))
    exec(advice.replace("FILE.pth", str(tmp_path / "FILE.pth")), {"torch": torch})
    model = net()
    assert "OpenAI's CLIP" in load_weights(model, tmp_path / "FILE.pth")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_clip_preset_has_openais_activation() -> None:
    x = torch.linspace(-3, 3, 7)
    net = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, depth=1, embed_dim=32, num_heads=2)
    torch.testing.assert_close(net.blocks[0].mlp.act(x), x * torch.sigmoid(1.702 * x))
    preset = (Path(__file__).parents[3] / "configs/backbone/clip_b16.yaml").read_text(encoding="utf-8")
    assert "model: vit_base_patch16_clip_quickgelu_224.openai" in preset


COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def transformers_model(kind: str, config: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = getattr(transformers, kind)(getattr(transformers, config)(**(COMMON | options)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], tuple[str, str], dict[str, Any]]] = {
    "vit": (partial(tiny, norm_layer=partial(nn.LayerNorm, eps=1e-12)), ("ViTModel", "ViTConfig"), {}),
    "deit": (
        partial(timm.models.deit.VisionTransformerDistilled, num_classes=0, **SIZES),
        ("DeiTModel", "DeiTConfig"),
        {"layer_norm_eps": 1e-6},
    ),
    "dinov2": (partial(tiny, init_values=1.0), ("Dinov2Model", "Dinov2Config"), {"mlp_ratio": 2}),
    "dinov2 swiglu": (
        # transformers rounds two thirds of the width up to a multiple of 8
        partial(tiny, init_values=1.0, mlp_ratio=96 / 32, mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU),
        ("Dinov2Model", "Dinov2Config"),
        {"use_swiglu_ffn": True, "mlp_ratio": 2},
    ),
    "dinov2 registers": (
        partial(tiny, init_values=1.0, reg_tokens=4, no_embed_class=True),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
        {"mlp_ratio": 2, "num_register_tokens": 4},
    ),
    "dinov3": (
        partial(eva),
        ("DINOv3ViTModel", "DINOv3ViTConfig"),
        {"num_register_tokens": 4, "query_bias": False, "value_bias": False, "key_bias": False},
    ),
    "dinov3 biases": (
        partial(eva, qkv_bias=True),
        ("DINOv3ViTModel", "DINOv3ViTConfig"),
        {"num_register_tokens": 4, "query_bias": True, "value_bias": True, "key_bias": False},
    ),
    "dinov3 gated": (
        partial(eva, swiglu_mlp=True, swiglu_align_to=8),
        ("DINOv3ViTModel", "DINOv3ViTConfig"),
        {
            "num_register_tokens": 4,
            "query_bias": False,
            "value_bias": False,
            "use_gated_mlp": True,
            "hidden_act": "silu",
        },
    ),
    "clip": (
        partial(tiny, pre_norm=True, act_layer=timm.layers.QuickGELU, norm_layer=partial(nn.LayerNorm, eps=1e-5)),
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
        {},
    ),
    "siglip": (
        partial(tiny, class_token=False, global_pool="map", act_layer="gelu_tanh"),
        ("SiglipVisionModel", "SiglipVisionConfig"),
        {},
    ),
}


def pooled(name: str, model: Any, images: Tensor) -> Tensor:
    """What transformers gives where timm gives its pooled features."""
    if name == "siglip":
        result = model(images).pooler_output
    elif name == "clip":
        tower = getattr(model, "vision_model", model)
        result = tower(images).pooler_output
    else:
        result = model(images).last_hidden_state[:, 0]
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("form", ["file", "state_dict"])
def test_transformers_files_give_the_same_function_in_timm(name: str, form: str, tmp_path: Path) -> None:
    build, (kind, config), options = TRANSFORMERS[name]
    model = transformers_model(kind, config, **options)
    if form == "file":
        model.save_pretrained(tmp_path)  # type: ignore[operator]
        path = tmp_path / "model.safetensors"
    else:
        path = tmp_path / "a.pth"
        torch.save(model.state_dict(), path)
    net: Any = build().eval()
    assert "transformers'" in load_weights(net, path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = pooled(name, model, images)
        features = net.forward_features(images)
        ours = features[:, 0] if name == "deit" else net.forward_head(features, pre_logits=True)
    assert (ours - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_transformers_mae_loads_without_its_decoder(tmp_path: Path) -> None:
    decoder = {f"decoder_{key}": value for key, value in (("hidden_size", 16), ("num_attention_heads", 2))}
    model = transformers_model("ViTMAEForPreTraining", "ViTMAEConfig", decoder_num_hidden_layers=1, **decoder)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    words = load_weights(tiny(), tmp_path / "model.safetensors")
    assert "under 'vit.'" in words and "left out: decoder" in words


def refused(load: Callable[[], object], kind: type[Exception] = BadInput) -> str:
    with pytest.raises(kind) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_load_by_their_index_and_are_all_part_of_the_identity(tmp_path: Path) -> None:
    state = randomised(timm.create_model(MODEL, num_classes=0))
    names = sorted(state)
    shards = {f"model-0000{number}-of-00002.safetensors": names[number - 1 :: 2] for number in (1, 2)}
    for shard, inside in shards.items():
        save_file({name: state[name] for name in inside}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, ns in shards.items() for name in ns}}))
    spec = BackboneSpec(model=MODEL, checkpoint=str(index))
    loaded = build_backbone(spec).net.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)
    assert [path.name for path in weights_files(spec)] == [index.name, *shards]
    before, second = weights_id(spec), tmp_path / "model-00002-of-00002.safetensors"
    # a single shard and the folder say what to name instead, and following it works
    for wrong in (second, tmp_path):
        message = refused(lambda path=wrong: build_backbone(BackboneSpec(model=MODEL, checkpoint=str(path))))
        advised = message.split("backbone.checkpoint=")[-1]
        assert Path(advised) == index
    save_file({name: tensor + 1 for name, tensor in load_file(second).items()}, second)
    assert weights_id(spec) != before
    second.unlink()
    assert second.name in refused(lambda: build_backbone(spec), MissingInput)


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"a": "../b.safetensors"}}', '{"a": 1}', "[", '{"weight_map": {"a": 1}}']
)
def test_an_index_names_files_beside_it_and_nothing_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"")
    index = tmp_path / "inner" / "model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(content)
    assert str(index) in refused(lambda: build_backbone(BackboneSpec(model=MODEL, checkpoint=str(index))))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(32, dtype=torch.int8), "norm.weight holds int8 numbers"),
        (torch.zeros(32, dtype=torch.complex64), "norm.weight holds complex64 numbers"),
        (torch.full((32,), torch.nan), "norm.weight holds NaN"),
        (torch.full((32,), -torch.inf), "norm.weight holds NaN or infinite"),
        (torch.zeros(31), r"norm.weight is \[31\], this backbone's \[32\]"),
    ],
    ids=["integer", "complex", "nan", "infinite", "shape"],
)
def test_what_are_no_weights_is_refused_before_anything_is_loaded(tensor: Tensor, words: str, tmp_path: Path) -> None:
    torch.save(STATE | {"norm.weight": tensor}, tmp_path / "a.pth")
    net = tiny()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(BadInput, match=words):
        load_weights(net, tmp_path / "a.pth")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_refusal_names_the_layout_and_the_first_tensors(tmp_path: Path) -> None:
    short = {name: tensor for name, tensor in STATE.items() if not name.startswith("blocks.1.")}
    torch.save({"model": under("module.", short | {"extra.weight": torch.zeros(1)})}, tmp_path / "a.pth")
    message = refused(lambda: load_weights(tiny(), tmp_path / "a.pth"))
    assert "(timm's layout, under 'module.', from 'model')" in message
    assert "12 tensors missing (blocks.1.norm1.weight" in message and "1 not of this model (extra.weight)" in message


class Custom:
    """A class that no allow-list knows."""


def test_foreign_objects_are_named_with_advice_that_works(tmp_path: Path) -> None:
    net = tiny()
    torch.save({"model": net.state_dict(), "config": Custom()}, tmp_path / "a.pth")
    message = refused(lambda: load_weights(tiny(), tmp_path / "a.pth"))
    assert "Custom" in message and "torch.save(model.state_dict(), FILE)" in message
    torch.save(net.state_dict(), tmp_path / "b.pth")
    load_weights(tiny(), tmp_path / "b.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.npz"])
def test_a_zip_bomb_is_refused_before_it_unfolds(name: str, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/data.pkl", "w") as file,
    ):
        for _ in range(200):
            file.write(bytes(1 << 20))
    assert "would unfold from 0.2 MB to 210 MB" in refused(lambda: load_weights(tiny(), tmp_path / name))


def test_a_module_without_embedding_has_no_layout_and_loads_by_name() -> None:
    found = find_state({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, nn.Linear(3, 2))
    assert found.words == "no known layout" and found.state.keys() == {"weight", "bias"}


def test_official_siglip_archives_load_with_their_pooling(tmp_path: Path) -> None:
    """big_vision's `params/img/...`: no class token, kernels [in, out], and a head that pools by attention."""
    net = tiny(class_token=False, global_pool="map", fc_norm=False)
    state = randomised(net)
    np.savez(tmp_path / "siglip.npz", **_big_vision(state, heads=2))  # type: ignore[arg-type]
    assert load_weights(net, tmp_path / "siglip.npz") == "layout of the JAX release"
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def _big_vision(state: dict[str, Tensor], heads: int) -> dict[str, np.ndarray]:
    w = {name: tensor.numpy() for name, tensor in state.items()}
    width = len(w["norm.weight"])
    head = width // heads
    out = {
        "embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": w["patch_embed.proj.bias"],
        "pos_embedding": w["pos_embed"],
        "MAPHead_0/probe": w["attn_pool.latent"],
    }

    def norm(there: str, here: str) -> None:
        out[f"{there}/scale"], out[f"{there}/bias"] = w[f"{here}.weight"], w[f"{here}.bias"]

    def dense(there: str, here: str) -> None:
        out[f"{there}/kernel"], out[f"{there}/bias"] = w[f"{here}.weight"].T, w[f"{here}.bias"]

    def attention(there: str, weights: list[np.ndarray], biases: list[np.ndarray], proj: str) -> None:
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            out[f"{there}/{part}/kernel"] = weight.T.reshape(width, heads, head)
            out[f"{there}/{part}/bias"] = bias.reshape(heads, head)
        out[f"{there}/out/kernel"] = w[f"{proj}.weight"].T.reshape(heads, head, width)
        out[f"{there}/out/bias"] = w[f"{proj}.bias"]

    norm("Transformer/encoder_norm", "norm")
    for layer in range(2):
        new, old = f"Transformer/encoderblock_{layer}", f"blocks.{layer}"
        norm(f"{new}/LayerNorm_0", f"{old}.norm1")
        norm(f"{new}/LayerNorm_1", f"{old}.norm2")
        weights, biases = (np.split(w[f"{old}.attn.qkv.{kind}"], 3) for kind in ("weight", "bias"))
        attention(f"{new}/MultiHeadDotProductAttention_0", weights, biases, f"{old}.attn.proj")
        for number in (0, 1):
            dense(f"{new}/MlpBlock_0/Dense_{number}", f"{old}.mlp.fc{number + 1}")
    pool = [[w[f"attn_pool.q.{kind}"], *np.split(w[f"attn_pool.kv.{kind}"], 2)] for kind in ("weight", "bias")]
    attention("MAPHead_0/MultiHeadDotProductAttention_0", *pool, "attn_pool.proj")
    norm("MAPHead_0/LayerNorm_0", "attn_pool.norm")
    for number in (0, 1):
        dense(f"MAPHead_0/MlpBlock_0/Dense_{number}", f"attn_pool.mlp.fc{number + 1}")
    return {f"params/img/{name}": array for name, array in out.items()}


def test_official_beit_files_load(tmp_path: Path) -> None:
    """`module` or `model` around timm's names, indices of relative positions beside their tables."""
    net = Beit(**SIZES, num_classes=0, use_rel_pos_bias=True, use_abs_pos_emb=False, init_values=0.1)
    state = randomised(net)
    index = {f"blocks.{layer}.attn.relative_position_index": torch.zeros(17, 17).long() for layer in range(2)}
    for key in ("model", "module"):
        words = loads({key: state | index | HEADS}, state, tmp_path / f"{key}.pth", net)
        assert f"from '{key}'" in words
