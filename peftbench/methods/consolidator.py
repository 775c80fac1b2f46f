"""Consolidator (Hao et al., ICLR 2023, arXiv:2305.00603): linear maps of channel groups beside the frozen ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import LinearDelta, Thinned
from peftbench.interventions.rotation import largest_block
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import norms_keys

ROLES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NORMS = ("norm", "qk_norm")
# of the uniform start, as released
BOUND = 1e-3


class GroupedLinear(nn.Module):
    """x -> G x + g with G block-diagonal: `weight` [out_dim, in_dim / num_groups], `bias` [out_dim].

    With `shuffle` the groups read channels dealt out in turn: the i-th of each group becomes neighbours.
    """

    def __init__(self, in_dim: int, out_dim: int, num_groups: int, shuffle: bool) -> None:
        super().__init__()
        self.weight_of_groups = nn.Parameter(torch.empty(out_dim, in_dim // num_groups).uniform_(-BOUND, BOUND))
        self.bias = nn.Parameter(torch.empty(out_dim).uniform_(-BOUND, BOUND))
        self.num_groups, self.shuffle = num_groups, shuffle

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.unflatten(-1, (self.num_groups, -1))
        if self.shuffle:
            pieces = pieces.transpose(-1, -2).flatten(-2).unflatten(-1, (self.num_groups, -1))
        weight = self.weight_of_groups.unflatten(0, (self.num_groups, -1))
        y: Tensor = torch.einsum("...gi,goi->...go", pieces, weight).flatten(-2) + self.bias
        return y

    def weight(self) -> Tensor:
        """G [out_dim, in_dim]."""
        dense = torch.block_diag(*self.weight_of_groups.unflatten(0, (self.num_groups, -1)))
        if not self.shuffle:
            return dense
        channels = torch.arange(dense.shape[1], device=dense.device).view(self.num_groups, -1).T.flatten()
        return torch.zeros_like(dense).index_copy(1, channels, dense)

    def offset(self) -> Tensor:
        """g [out_dim]."""
        return self.bias


@METHODS.add("consolidator")
@dataclass(frozen=True)
class Consolidator(Method):
    """y = W x + b + G x + g on qkv, proj, fc1 and fc2, G block-diagonal; norms and the biases b train as well.

    `num_groups` blocks, or the largest number below it that cuts both widths. G and g are drawn from U(-0.001, 0.001),
    as released, so the function changes by that little at the start. `drop_path` of the branches and `shuffle` are
    chosen for each task there. in out / groups + out parameters for each map, and those of norms and biases: 425,472 on
    ViT-B/16. Folds exactly.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2305.00603"
    identity_at_init: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True

    num_groups: int = option(384, ge=1)
    shuffle: bool = option(False)
    drop_path: float = option(0.0, ge=0, lt=1)

    def _groups(self, in_dim: int, out_dim: int) -> int:
        return largest_block(math.gcd(in_dim, out_dim), self.num_groups)

    def attach(self, backbone: Backbone) -> None:
        backbone.sites("attn.qkv")  # a transformer
        for site in backbone.all_sites:
            if site.shape.role.startswith(NORMS):
                unfreeze(*site.module.parameters(recurse=False))
            elif site.shape.role in ROLES:
                if not isinstance(site.module, nn.Linear):
                    kind = type(site.module).__name__
                    raise NotApplicable(f"consolidator works beside linear maps, not beside a {kind}")
                if site.shape.has_bias:
                    unfreeze(site.module.bias)
                in_dim, out_dim = site.shape.in_dim, site.shape.out_dim
                branch = GroupedLinear(in_dim, out_dim, self._groups(in_dim, out_dim), self.shuffle)
                site.wrap(lambda linear, branch=branch: LinearDelta(linear, {0: Thinned(branch, self.drop_path)}))  # type: ignore[misc]

    def expected_params(self, shape: BackboneShape) -> int:
        norms = sum(site.out_dim * (1 + site.has_bias) for site in shape.sites if site.role.startswith(NORMS))
        maps = sum(
            site.in_dim * site.out_dim // self._groups(site.in_dim, site.out_dim) + site.out_dim * (1 + site.has_bias)
            for site in shape.at(*ROLES)
        )
        return norms + maps

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """Offsets that all keys share, which softmax cancels: key thirds of the qkv's biases, or a key norm's bias."""
        if backbone.turns_keys:
            return {}
        names, found = {id(tensor): name for name, tensor in backbone.trainable}, {}
        for site in backbone.sites("attn.qkv"):
            width = site.shape.out_dim // 3
            if norms_keys(site.parent):
                vectors = [(getattr(site.parent.k_norm, "bias", None), slice(None))]
            else:
                linear = site.module
                biases = [getattr(linear.get_submodule(part), "bias", None) for part in ("base", "deltas.0.delta")]
                vectors = [(bias, slice(width, 2 * width)) for bias in biases]
            found.update({names[id(vector)]: rows for vector, rows in vectors if id(vector) in names})
        return found
