"""Weights of a pair from one file: OpenAI's CLIP, OpenCLIP, transformers' CLIP and SigLIP, or the embedded pair."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.checkpoint import read_checkpoint, require_fit
from peftbench.backbones.layouts import renamed_by
from peftbench.backbones.pair import Pair
from peftbench.backbones.weights import load_weights, resampled
from peftbench.foundation.errors import BadInput

State = dict[str, Tensor]

_BLOCK = (
    (r"\.ln_1\.", ".norm1."),
    (r"\.ln_2\.", ".norm2."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_OPENAI = (
    (r"^transformer\.resblocks\.", "net.blocks."),
    *_BLOCK,
    (r"^token_embedding\.", "net.token_embed."),
    (r"^positional_embedding$", "net.pos_embed"),
    (r"^ln_final\.", "net.norm."),
)
_TRANSFORMERS = (
    (r"^encoder\.layers\.", "net.blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^embeddings\.token_embedding\.", "net.token_embed."),
    (r"^embeddings\.position_embedding\.weight$", "net.pos_embed"),
    (r"^final_layer_norm\.", "net.norm."),
)


def load_pair(pair: Pair, path: Path, ema: bool = True) -> str:
    """Load both towers, projections and scale from `path`; returns in words how it was read.

    Raises `BadInput` for a file that holds no such pair, naming the first tensor that is missing or does not fit.
    """
    state = _flat(read_checkpoint(path))
    if "image.patch_embed.proj.weight" in state:
        _take(pair, _own(pair, state, path), path)
        return "the embedded pair's layout"
    words = load_weights(pair.image.net, path, ema).partition(";")[0]
    text = _text_of(state, path)
    image = _image_projection(pair, state)
    _take(pair, {f"text.{name}": t for name, t in text.items() if name.startswith("net.")} | image | _rest(text), path)
    return f"{words}; with its text tower"


def _flat(content: Mapping[str, Any]) -> State:
    """The tensors of a checkpoint, out of `state_dict` and without the prefix of a parallel wrapper."""
    while isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module."): value for name, value in found.items()}


def _own(pair: Pair, state: State, path: Path) -> State:
    """The packaged file says `image.` and `text.` where the modules say `image.net.` and `text.net.`."""
    names = {"logit_scale": "match.logit_scale"}
    state = {name: tensor.float() for name, tensor in state.items()}
    images = {name.removeprefix("image."): t for name, t in state.items() if name.startswith("image.")}
    fitted = {f"image.{name}": t for name, t in resampled(pair.image.net, images, str(path)).items()}
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("image.")}
    return {re.sub(r"^(image|text)\.", r"\1.net.", names.get(n, n)): t for n, t in {**fitted, **kept}.items()}


def _text_of(state: State, path: Path) -> State:
    """The text tower's tensors under this package's names, its projection and scale beside them."""
    # OpenCLIP keeps text towers of its newer models under `text.`
    prefix = next((p for p in ("", "text.") if f"{p}token_embedding.weight" in state), None)
    if prefix is not None:
        own = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        text = {name: t for name, t in renamed_by(own, _OPENAI).items() if name.startswith("net.")}
        projection = own.get("text_projection")
        if projection is not None:
            text["text_projection.weight"] = projection.T
        else:
            text |= {n: t for n, t in own.items() if n.startswith("text_projection.")}
    elif "text_model.embeddings.token_embedding.weight" in state:
        own = {n.removeprefix("text_model."): t for n, t in state.items() if n.startswith("text_model.")}
        renamed = _joined(renamed_by(own, _TRANSFORMERS))
        text = {name: t for name, t in renamed.items() if name.startswith("net.")}
        head = "text_projection" if "text_projection.weight" in state else "text_model.head"
        kinds = ("weight", "bias")
        text |= {f"text_projection.{k}": state[f"{head}.{k}"] for k in kinds if f"{head}.{k}" in state}
    else:
        raise BadInput(f"{path} holds no text tower; take the whole CLIP or SigLIP, or leave backbone.text empty")
    if (positions := text.get("net.pos_embed")) is not None and positions.ndim == 2:
        text["net.pos_embed"] = positions.unsqueeze(0)
    for name in ("logit_scale", "logit_bias"):
        if name in state:
            text[f"match.{name}"] = state[name].reshape(())
    return text


def _rest(text: State) -> State:
    return {name: tensor for name, tensor in text.items() if not name.startswith("net.")}


def _image_projection(pair: Pair, state: State) -> State:
    if isinstance(pair.image_projection, nn.Identity):
        return {}
    for name, turned in (
        ("visual.proj", True),
        ("visual_projection.weight", False),
        ("visual.head.proj.weight", False),
    ):
        if name in state:
            return {"image_projection.weight": state[name].T if turned else state[name]}
    return {}


def _joined(state: State) -> State:
    """q, k and v of transformers as one matrix."""
    joined = {name: t for name, t in state.items() if ".self_attn." not in name}
    for name in [name for name in state if ".self_attn.q_proj." in name]:
        parts = [state.get(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        if all(part is not None for part in parts):
            joined[name.replace("self_attn.q_proj", "attn.qkv")] = torch.cat([p for p in parts if p is not None])
    return joined


def _take(pair: Pair, state: State, path: Path) -> None:
    """Copies into everything but the image tower, which is loaded already unless the file is this package's own."""
    own = {name: t for name, t in pair.state_dict().items() if not name.startswith("image.") or name in state}

    def advice(name: str) -> str:
        sizes = name in own and name.startswith("image")
        return f"check {'backbone.model and backbone.img_size' if sizes else 'backbone.text and backbone.model'}"

    require_fit(path, state, own, "this backbone's", advice)
    pair.load_state_dict(state, strict=False)
