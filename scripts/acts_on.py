"""Where a method acts, in words, read off a backbone to which it was attached."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from peftbench.backbones.base import Backbone, Site
from peftbench.interventions import BlockTaps, Intervention

PLACES = {
    "embed": "patch embedding",
    "attn": "attention",
    "attn.qkv": "qkv",
    "attn.proj": "proj",
    "mlp": "MLP",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
    "block": "blocks",
    "norm.final": "final norm",
    "over_frames": "the features of frames",
}
TAPS = {
    "beside": "beside",
    "inside": "onto",
    "behind": "behind",
    "before": "stream ahead of",
    "stream": "stream behind",
    "skip": "shortcut of",
}
WRAPPERS = {
    "Behind": "behind ",
    "Ahead": "ahead of ",
    "Beside": "beside ",
    "AttentionCore": "inside ",
    "InsertTokens": "tokens into ",
    "ImageTokens": "tokens into ",
    "FourierTokens": "tokens into ",
    "InputScale": "ahead of ",
    "MetaTokens": "tokens into ",
    "QueryTokens": "queries to ",
    "SynthesisedQueries": "queries to ",
    "MergingBlock": "patches merged inside ",
    "SparsifyingBlock": "beside the MLP, and patches merged inside ",
    "DispatchedBlock": "patches sent past the MLP of ",
    "SideBlock": "a side network along ",
    "TemporalPass": "attention over time ahead of ",
    "FrameOffsets": "offsets of frames ahead of ",
    "TemporalShift": "frames shifted behind ",
    "FrameTransformer": "a transformer over ",
    "HighwayBlock": "a side network along ",
}
# wrappers that only clear away what another has brought in
BOOKKEEPING = ("StripTokens", "SparesCarried", "Unused", "MeanPatch", "WithSizes")
EMBEDDINGS = {"cls_token": "class token", "reg_token": "registers", "pos_embed": "positions"}


def acts_on(backbone: Backbone, attach: Callable[[Backbone], None]) -> str:
    """The places that `attach` changes: `;` between those that get something new and those that train."""
    originals = [(site, site.module) for site in backbone.all_sites]
    readout = backbone.readout
    attach(backbone)
    added = [word for site, module in originals for word in _added(site, module)]
    added += ["pooling"] if backbone.readout is not readout else []
    trained: list[str] = [word for name, word in EMBEDDINGS.items() if _trains(getattr(backbone.net, name, None))]
    biases: list[str] = []
    for site, module in originals:
        own = {name: tensor.requires_grad for name, tensor in module.named_parameters(recurse=False)}
        if own.get("weight"):
            trained.append(_place(site))
        elif own.get("bias"):
            biases.append(_place(site))
    parts = [_listed(added), _listed(trained), f"biases of {_listed(biases)}" if biases else ""]
    return "; ".join(part for part in parts if part) + _blocks(originals, backbone.shape.depth)


def _trains(tensor: object) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.requires_grad


def _place(site: Site) -> str:
    role = site.shape.role
    return PLACES.get(role, "norms" if role.startswith("norm") else role)


def _added(site: Site, original: nn.Module) -> list[str]:
    """One phrase for each wrapper around the original module of a site."""
    words, module = [], site.module
    while module is not original and isinstance(module, Intervention):
        if isinstance(module, BlockTaps):
            words += [f"{TAPS[place]} {PLACES[half]}" for half, place, *_ in module._where]
        elif type(module).__name__ not in BOOKKEEPING:
            words.append(WRAPPERS.get(type(module).__name__, "") + _place(site))
        module = module.base
    return words


def _listed(words: list[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _blocks(originals: list[tuple[Site, nn.Module]], depth: int) -> str:
    """Which blocks, where it is not all of them."""
    changed = {
        site.layer
        for site, module in originals
        if site.layer >= 0 and (_added(site, module) or any(p.requires_grad for p in module.parameters()))
    }
    if not changed or len(changed) == depth:
        return ""
    listed = ", ".join(str(layer + 1) for layer in sorted(changed))
    return f" (block{'s' if len(changed) > 1 else ''} {listed} of {depth})"
