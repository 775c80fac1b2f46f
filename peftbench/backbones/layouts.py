"""Checkpoint layouts: which tensors of a file are the backbone's, and what timm calls them.

Names are those of the official releases (facebookresearch/deit, dino, mae, ibot, dinov2, dinov3; openai/CLIP) and of
Hugging Face transformers, versions 4 and 5. What timm's own filter converts is brought to the form it expects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.foundation.errors import BadInput

State = dict[str, Tensor]

# Moving averages of the weights, as timm prefers them; `teacher` is that of DINO, iBOT and DINOv2, `target_encoder` of
# I-JEPA.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher", "target_encoder")
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "student", "encoder")
# Of two copies of the backbone in one file, the one whose name holds the earlier of these words is taken.
_PREFERRED = ("ema", "teacher", "base_encoder", "vision", "visual")
# What pre-training needs and a backbone does not.
_PRETRAINING = re.compile(r"(decoder_\w+|mask_token|masked_embed|lm_head|projectors)(\.|$)")
# Indices and fixed tables, computed anew by every model.
_COMPUTED = re.compile(r"(^|\.)(position_ids|relative_position_index|attn_mask|periods|bias_mask)$")
# DINOv3's releases round them to bfloat16; timm makes them in float32, up to 0.2 % apart, and so does every cell here
_PERIODS = "rope_embed.periods"


@dataclass(frozen=True)
class Found:
    """The backbone's tensors under timm's names before its own filter, and in words where they were in the file."""

    state: State
    words: str
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    name: str
    # a tensor that every file of this layout has, by which the prefix of all its names is found
    anchor: str
    convert: Callable[[State], State]


def find_state(content: Mapping[str, Any], net: nn.Module, ema: bool = True) -> Found:
    """The tensors of `net` in what a file holds. Raises `BadInput` where two copies are as good as each other.

    Where a file holds a moving average of the weights beside the raw ones, `ema` takes the average.
    """
    where, state = _unwrapped(content, ema)
    anchor = next((name for name in net.state_dict() if name.endswith(("embed.proj.weight", "stem.0.weight"))), "")
    layouts = (*_FOREIGN, _Layout("timm", anchor, _official)) if anchor else ()
    for layout in layouts:
        prefixes = [name.removesuffix(layout.anchor) for name in state if _ends(name, layout.anchor)]
        prefixes = [prefix for prefix in prefixes if not prefix.startswith("decoder")]
        if not prefixes:
            continue
        prefix = _chosen(prefixes, ema)
        inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        outside = [name for name in state if not name.startswith(prefix)]
        dropped = [name for name in inside if _PRETRAINING.match(name)]
        words = [f"layout of {layout.name}" if layout.name != "timm" else "timm's layout"]
        words += [f"under '{prefix}'"] if prefix else []
        words += [f"from '{where}'"] if where else []
        kept = {name: tensor for name, tensor in inside.items() if not _COMPUTED.search(name)}
        converted, zeros = _without_zero_biases(_scales_of_layers(layout.convert(kept), net), net)
        if "mask_token" in inside:
            converted, renamed = _pooled_norm(converted, net)
            words += renamed
        anew = ("rotary periods (made anew in float32)",) if _PERIODS in inside else ()
        return Found(converted, ", ".join(words), (*_heads(outside + dropped), *zeros, *anew))
    return Found(state, "no known layout" + (f", from '{where}'" if where else ""), ())


def tensors_of(content: Mapping[str, Any], ema: bool = True) -> State:
    """All tensors of what a file holds, under the names that it has for them."""
    return _unwrapped(content, ema)[1]


def _unwrapped(content: Mapping[str, Any], ema: bool) -> tuple[str, State]:
    """The innermost dictionary of tensors, and the keys that lead to it."""
    keys: list[str] = []
    while True:
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        averages = [key for key in _AVERAGES if isinstance(content.get(key), Mapping)]
        others = [key for key in _NESTED if isinstance(content.get(key), Mapping)]
        order = [*averages, *others] if ema else [*others, *averages]
        nested = [key for key in order if _holds_tensors(content[key])]
        if not nested:
            return ".".join(keys), tensors
        keys.append(nested[0])
        content = content[nested[0]]


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    if isinstance(value, Mapping) and depth:
        return any(_holds_tensors(inner, depth - 1) for inner in value.values())
    return isinstance(value, Tensor)


def _ends(name: str, anchor: str) -> bool:
    return name == anchor or name.endswith("." + anchor)


def _chosen(prefixes: list[str], ema: bool) -> str:
    """One prefix of several: the preferred copy of the backbone."""
    if len(prefixes) == 1:
        return prefixes[0]
    wanted = _PREFERRED if ema else ("student", *_PREFERRED)
    for word in wanted:
        found = [prefix for prefix in prefixes if word in prefix]
        if len(found) == 1:
            return found[0]
    listed = ", ".join(f"'{prefix}'" for prefix in prefixes[:4])
    raise BadInput(f"the file holds {len(prefixes)} models under {listed}; save the one that is meant alone")


def _heads(names: Iterable[str]) -> tuple[str, ...]:
    """Names without what is below their first part: `decoder_blocks.0.attn.qkv.weight` -> `decoder_blocks`."""
    return tuple(sorted({name.split(".")[0] for name in names}))


def _official(state: State) -> State:
    """DINO, MAE, iBOT, DINOv2, DINOv3 and SAM releases: timm's names but for chunked blocks, some layers' names and
    pre-training parts.
    """
    # DINOv2's training code numbers blocks through, inside chunks
    state = renamed_by(
        state,
        (
            (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
            (r"\.mlp\.lin(\d)\.", r".mlp.fc\1."),
            (r"\.mlp\.w12\.", ".mlp.fc1."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
    )
    if "register_tokens" in state:
        # by this tensor timm knows DINOv2's registers
        state.setdefault("mask_token", torch.zeros(1))
    keep = {"register_tokens", "storage_tokens"} & state.keys()
    return {name: tensor for name, tensor in state.items() if keep or not _PRETRAINING.match(name)}


def _scales_of_layers(state: State, net: nn.Module) -> State:
    """DeiT III (`models_v2.py`) for a network whose scales of layers are modules, as those of BEiT and EVA are not."""
    if "blocks.0.ls1.gamma" not in net.state_dict():
        return state
    return renamed_by(state, ((r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),))


def _without_zero_biases(state: State, net: nn.Module) -> tuple[State, tuple[str, ...]]:
    """DINOv3 for a network without biases of queries, keys and values: timm's, since those of the releases are zero.

    Also in words what was left out. Raises `BadInput` where one is not zero; keys have none, their third is masked.
    """
    own = net.state_dict().keys()
    if not {"storage_tokens", "reg_token"} & state.keys() or any("q_bias" in name for name in own):
        return state, ()
    biases = [name for name in state if name.endswith(".attn.qkv.bias") and name not in own]
    for name in biases:
        queries, _, values = state[name].chunk(3)
        if bool(queries.any()) or bool(values.any()):
            raise BadInput(f"{name} is not zero, and this model has no such bias; take timm's with 'qkvb' in its name")
    rest = {name: tensor for name, tensor in state.items() if name not in biases}
    return rest, ("qkv.bias (all zero)",) if biases else ()


def _pooled_norm(state: State, net: nn.Module) -> tuple[State, list[str]]:
    """EVA-02 as pre-trained, for a network that norms the mean of tokens: its last norm is that one, as in timm."""
    own, rule = net.state_dict(), (r"^norm\.", "fc_norm.")
    moved = "norm.weight" in state and "fc_norm.weight" in own and "norm.weight" not in own
    if not moved or not type(net).__module__.endswith(".eva") or "fc_norm.weight" in state:
        return state, []
    return renamed_by(state, (rule,)), ["its norm as fc_norm"]


def _clip(state: State) -> State:
    return {f"visual.{name}": tensor for name, tensor in state.items()}


_BLOCKS = (r"^(?:model\.)?(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1.")
_ATTENTION = (
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.attention\.([qv]_bias)$", r".attn.\1"),
    (r"\.(?:attention|self_attn)\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
)
_VIT = (
    _BLOCKS,
    *_ATTENTION,
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.distillation_token", "dist_token"),
    (r"^embeddings\.(mask_token|register_tokens)", r"\1"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
_TOWER = (
    _BLOCKS,
    *_ATTENTION,
    (r"^embeddings\.class_embedding", "cls_token"),
    (r"^embeddings\.position_embedding\.weight", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"^head\.probe", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)


def renamed_by(state: State, rules: Iterable[tuple[str, str]]) -> State:
    """The tensors under the names that the rules, pattern -> replacement, make of theirs one after the other."""
    found = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = tensor
    return found


def _joined(state: State) -> State:
    """Query, key and value as the one matrix that timm has; a key without bias gets zeros beside the other two."""
    joined: State = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.attn\.)(?:q|query)\.(weight|bias)", name)
        if match:
            key, value = (
                state.get(f"{match[1]}{short}.{match[2]}", state.get(f"{match[1]}{long}.{match[2]}"))
                for short, long in (("k", "key"), ("v", "value"))
            )
            parts = [tensor, torch.zeros_like(tensor) if key is None else key, value]
            if value is not None:
                joined[f"{match[1]}qkv.{match[2]}"] = torch.cat([part for part in parts if part is not None])
        elif not re.fullmatch(r".*\.attn\.(k|key|v|value)\.(weight|bias)", name):
            joined[name] = tensor
    return joined


def _transformers_vit(state: State) -> State:
    state = {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}
    if "embeddings.patch_embeddings.weight" in state:
        state = renamed_by(state, ((r"^embeddings\.register_tokens", "storage_tokens"),))
        state = renamed_by(
            state,
            (
                (r"\.mlp\.gate_proj\.", ".mlp.w1."),
                (r"\.mlp\.up_proj\.", ".mlp.w2." if _gated(state) else ".mlp.fc1."),
                (r"\.mlp\.down_proj\.", ".mlp.w3." if _gated(state) else ".mlp.fc2."),
            ),
        )
        return _official(_joined(renamed_by(state, _VIT)))
    if _gated(state):
        for name in [name for name in state if ".mlp.gate_proj." in name]:
            up = state.pop(name.replace("gate_proj", "up_proj"))
            state[name.replace("gate_proj", "weights_in")] = torch.cat([state.pop(name), up])
        state = renamed_by(state, ((r"\.mlp\.down_proj\.", ".mlp.w3."),))
    return _official(_joined(renamed_by(state, _VIT)))


def _gated(state: State) -> bool:
    return any(".mlp.gate_proj." in name for name in state)


def _transformers_tower(state: State) -> State:
    state = renamed_by(state, _TOWER)
    for kind in ("weight", "bias"):
        if (packed := state.pop(f"head.attention.in_proj_{kind}", None)) is not None:
            state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"] = packed.tensor_split([len(packed) // 3])
    if state["patch_embed.proj.weight"].ndim != 4:
        raise BadInput("the file is a NaFlex SigLIP 2, which has no fixed image size; take one with a size in its name")
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in state:
        state["pos_embed"] = state["pos_embed"].unsqueeze(0)
    return _joined(state)


_FOREIGN = (
    _Layout("transformers' ViT, DeiT or DINOv2", "embeddings.patch_embeddings.projection.weight", _transformers_vit),
    _Layout("transformers' DINOv3", "embeddings.patch_embeddings.weight", _transformers_vit),
    _Layout("transformers' CLIP or SigLIP tower", "embeddings.patch_embedding.weight", _transformers_tower),
    _Layout("OpenAI's CLIP", "conv1.weight", _clip),
)
