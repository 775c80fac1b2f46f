"""Low-rank adapters in the format of Hugging Face's PEFT library: a folder with a configuration and a safetensors file.

The format (`adapter_config.json`, `adapter_model.safetensors`): https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from peftbench.adapters.file import read_adapter
from peftbench.foundation.errors import BadInput, MissingInput, NotApplicable
from peftbench.foundation.files import replace_bytes, replace_text
from peftbench.interventions.head import ChangedHead, plain_head
from peftbench.interventions.linear import LinearDelta, LowRank
from peftbench.tasks.model import Classifier

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# what the format may ask for and a plain low-rank pair does not do
_REFUSED = ("use_dora", "fan_in_fan_out", "lora_bias", "layer_replication", "use_qalora", "trainable_token_indices")


def write_peft(model: Classifier, model_name: str, folder: Path) -> Path:
    """Write a low-rank classifier's adapter so that `PeftModel.from_pretrained(timm_model, folder)` gives its outputs.

    The timm model is `timm.create_model(model_name, num_classes=...)` with the weights the adapter was trained on; its
    classifier comes with the adapter. Pairs on slices of a fused map become one pair of their ranks' sum. Raises
    `NotApplicable` when the method trains anything but low-rank pairs on linear maps.
    """
    pairs = _pairs(model)
    ranks = {name: len(down) for name, (down, _, _) in pairs.items()}
    alphas = {name: scale * ranks[name] for name, (_, _, scale) in pairs.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    head = _classifier_name(model)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": model_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(pairs),
        "modules_to_save": [head],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    tensors: dict[str, Tensor] = {}
    for name, (down, up, _) in pairs.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = up
    own = plain_head(model.head) if isinstance(model.head, ChangedHead) else model.head
    for name, tensor in own.state_dict().items():
        tensors[f"{_PREFIX}{head}.{name}"] = tensor
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    replace_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return folder


def attach_peft(model: Classifier, folder: Path) -> None:
    """Put the adapter of a folder in PEFT's format into a classifier that has no method yet, its head included.

    Raises `MissingInput` when the folder holds no such adapter, `BadInput` when it is not a plain low-rank one or does
    not fit the model. Nothing in the folder is run.
    """
    config, tensors = _read(folder)
    head = f"{_classifier_name(model)}."
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain[name.removeprefix(_PREFIX).replace(".modules_to_save", "")] = tensor
    own = {name.removeprefix(head): plain.pop(name) for name in sorted(plain) if name.startswith(head)}
    expected = model.head.state_dict()
    if {name: tensor.shape for name, tensor in own.items()} != {n: t.shape for n, t in expected.items()}:
        shape = list(own["weight"].shape) if "weight" in own else "none"
        raise BadInput(
            f"{folder}: its classifier ({shape}) is not one for these classes ({list(expected['weight'].shape)}); "
            "the adapter needs modules_to_save with the classifier, and the data set it was trained on"
        )
    modules = dict(model.backbone.net.named_modules())
    names = sorted({name.rpartition(".lora_")[0] for name in plain})
    for name in names:
        down, up = (plain.pop(f"{name}.lora_{part}.weight", None) for part in "AB")
        base = modules.get(name)
        if down is None or up is None or not isinstance(base, nn.Linear):
            raise BadInput(f"{folder}: '{name}' is no low-rank pair on a linear map of this backbone")
        if down.shape[1:] != (base.in_features,) or not len(down) or up.shape != (base.out_features, len(down)):
            raise BadInput(f"{folder}: the pair on '{name}' has another width than this backbone")
        pair = LowRank(base.in_features, base.out_features, len(down), _scale(config, name, len(down)))
        with torch.no_grad():
            pair.down.copy_(down)
            pair.up.copy_(up)
        parent, _, key = name.rpartition(".")
        setattr(modules[parent], key, LinearDelta(base, deltas={0: pair.to(base.weight.device)}))
    if plain:
        raise BadInput(f"{folder}: cannot use {sorted(plain)[0]}")
    model.head.load_state_dict(own)


def _pairs(model: Classifier) -> dict[str, tuple[Tensor, Tensor, float]]:
    """timm's name of each linear map -> (A [rank, in], B [out, rank], factor) of all its low-rank pairs together."""
    pairs, covered = {}, set()
    for name, module in model.backbone.net.named_modules():
        if not isinstance(module, LinearDelta) or not isinstance(module.base, nn.Linear):
            continue
        deltas = {int(number): delta for number, delta in module.deltas.items()}
        if not all(type(delta) is LowRank for delta in deltas.values()):
            continue
        covered |= {id(parameter) for delta in deltas.values() for parameter in delta.parameters()}
        pairs[name] = _together(deltas, module.base.out_features // module.num_slices, module.base.out_features)
    others = [name for name, parameter in model.added if id(parameter) not in covered]
    if others or not pairs:
        what = others[0] if others else "nothing but the head"
        raise NotApplicable(
            f"PEFT's LoRA format holds low-rank pairs on linear maps; this method trains {what}: write a .safetensors"
        )
    return pairs


def _together(deltas: dict[int, Any], width: int, out_dim: int) -> tuple[Tensor, Tensor, float]:
    downs, ups = [], []
    scale = next(iter(deltas.values())).scale
    for number, delta in deltas.items():
        up = delta.up.new_zeros(out_dim, delta.up.shape[1])
        up[number * width : (number + 1) * width] = delta.up.detach() * (delta.scale / scale)
        downs.append(delta.down.detach())
        ups.append(up)
    return torch.cat(downs), torch.cat(ups, dim=1), float(scale)


def _classifier_name(model: Classifier) -> str:
    name = model.backbone.net.pretrained_cfg["classifier"]  # type: ignore[index]
    return str(name)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (folder / CONFIG).is_file():
        raise MissingInput(f"there is no {CONFIG} in {folder}")
    if not (folder / WEIGHTS).is_file():
        raise MissingInput(f"there is no {WEIGHTS} in {folder}; weights in pickle files (.bin) are not read")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{folder / CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise BadInput(f"{folder / CONFIG}: only peft_type LORA with bias none is read")
    if not isinstance(config.get("alpha_pattern") or {}, dict):
        raise BadInput(f"{folder / CONFIG}: alpha_pattern must be an object, got {config['alpha_pattern']!r:.60}")
    asked = [name for name in _REFUSED if config.get(name)]
    if asked:
        raise BadInput(f"{folder / CONFIG}: {asked[0]} is not a plain low-rank pair and is not read")
    return config, read_adapter(folder / WEIGHTS)[0]


def _scale(config: dict[str, Any], name: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) where the configuration says so; patterns are names or their ends."""
    alpha = config.get("lora_alpha", 8)
    for ending, value in (config.get("alpha_pattern") or {}).items():
        if name == ending or name.endswith(f".{ending}"):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= sys.float_info.max:
        raise BadInput(f"{CONFIG}: lora_alpha must be a number, got {alpha!r:.60}")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
