"""One linear map for queries, keys and values, and one for a gated MLP's two inputs: the layout that methods speak of.

Some timm models hold these maps apart, or keep the biases beside the map and call its weight past any wrapper. They
are brought into timm's own fused layout, which computes the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.mlp import GluMlp, SwiGLU
from timm.models.vitamin import GeGluMlp
from torch import Tensor, nn


class NormedGluMlp(nn.Module):
    """ViTamin's gated MLP with one map for both inputs: fc2(act(g) * v), g and v the halves of fc1(norm(x))."""

    def __init__(self, apart: Any) -> None:
        super().__init__()
        self.norm, self.fc1 = apart.norm, _one_linear([apart.w0, apart.w1])
        self.act, self.drop1, self.fc2, self.drop2 = apart.act, apart.drop1, apart.w2, apart.drop2

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(self.norm(x)).chunk(2, dim=-1)
        y: Tensor = self.drop2(self.fc2(self.drop1(self.act(gate) * value)))
        return y


@torch.no_grad()
def fuse(net: nn.Module) -> None:
    """Change a timm model in place: q, k, v become `qkv` with its own bias, a gated MLP's two inputs become `fc1`.

    Where only queries and values have a bias, keys get one of zeros, which changes nothing until it is trained. Grouped
    queries, whose keys are narrower, stay apart.
    """
    for module in list(net.modules()):
        _fuse_attention(module)
        for name, child in list(module.named_children()):
            if type(child) is SwiGLU:
                setattr(module, name, _fused_mlp(child))
            elif type(child) is GeGluMlp:
                setattr(module, name, NormedGluMlp(child))


def _fuse_attention(attn: Any) -> None:
    if isinstance(getattr(attn, "q_proj", None), nn.Linear) and getattr(attn, "qkv", attn) is None:
        parts = [attn.q_proj, attn.k_proj, attn.v_proj]
        if len({part.out_features for part in parts}) == 1:
            attn.qkv = _one_linear(parts)
            attn.q_proj = attn.k_proj = attn.v_proj = None
    elif getattr(attn, "q_bias", None) is not None and isinstance(attn.qkv, nn.Linear):
        attn.qkv.bias = nn.Parameter(torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))
        attn.q_bias = attn.k_bias = attn.v_bias = None


def _fused_mlp(mlp: Any) -> GluMlp:
    fused = GluMlp(1, 2, 1, gate_last=False, device="meta")
    fused.fc1 = _one_linear([mlp.fc1_g, mlp.fc1_x])
    for name in ("act", "drop1", "norm", "fc2", "drop2"):
        setattr(fused, name, getattr(mlp, name))
    return fused


def _one_linear(parts: Sequence[nn.Linear]) -> nn.Linear:
    """The linear map whose output is that of `parts` side by side."""
    linear = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts), bias=False, device="meta")
    linear.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
    if any(part.bias is not None for part in parts):
        linear.bias = nn.Parameter(torch.cat([_bias(part) for part in parts]))
    return linear


def _bias(part: nn.Linear) -> Tensor:
    return part.weight.new_zeros(part.out_features) if part.bias is None else part.bias
