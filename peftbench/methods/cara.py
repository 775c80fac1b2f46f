"""CaRA (Veeramacheneni et al., ICML 2025): the updates of all layers as two tensors of low canonical rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Rewritten, refer, share
from peftbench.methods.base import METHODS, Method


class Canonical(nn.Module):
    """Factors of T = sum_r s_r f_1[:, r] o f_2[:, r] o ..., one matrix [size, rank] for each axis, `strengths` [rank].

    The first factor, of the layers, is xavier-normal, the second zero, the others have orthonormal columns or rows.
    """

    def __init__(self, sizes: tuple[int, ...], rank: int, mean: float, std: float) -> None:
        super().__init__()
        self.factors = nn.ParameterList([torch.zeros(size, rank) for size in sizes])
        nn.init.xavier_normal_(self.factors[0])
        for factor in list(self.factors)[2:]:
            nn.init.orthogonal_(factor)
        self.strengths = nn.Parameter(torch.full((rank,), mean) + std * torch.randn(rank))

    def slices(self, start: int, number: int) -> Tensor:
        """T[start : start + number], [number, size of the second axis, product of the others]."""
        layers, first, *others = self.factors
        last = others[0]
        for factor in others[1:]:
            last = (last.unsqueeze(1) * factor.unsqueeze(0)).flatten(0, 1)
        return torch.einsum("lr,ir,or->lio", layers[start : start + number] * self.strengths, first, last)


class SharedBias(nn.Module):
    """`shift` [width], zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))


@dataclass(frozen=True)
class Cut:
    """Which slices of the tensor change a map: `number` from `start`.

    `turned` says that a slice holds inputs along its second axis, so that it is turned to lie in the weight; else the
    slices are pieces of the outputs. `joined` turns them all at once: they are pieces of the inputs.
    """

    start: int
    number: int
    turned: bool = False
    joined: bool = False


class CanonicalChange(nn.Module):
    """W -> W + scale * dropout(part of T), b -> b + scale * shared bias where there is one."""

    tensor: Canonical
    shared_bias: SharedBias | None

    def __init__(
        self, tensor: Canonical, part: Cut, shared_bias: SharedBias | None, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.part, self.scale = part, scale
        refer(self, "tensor", tensor)
        if shared_bias is None:
            self.shared_bias = None
        else:
            refer(self, "shared_bias", shared_bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        slices = self.tensor.slices(self.part.start, self.part.number)
        if self.part.turned:
            slices = slices.transpose(1, 2)
        change = slices.flatten(0, 1)
        new = weight + self.scale * self.dropout(change.T if self.part.joined else change)
        if self.shared_bias is None:
            return new, bias
        shift = self.scale * self.shared_bias.shift
        return new, shift if bias is None else bias + shift


@METHODS.add("cara")
@dataclass(frozen=True)
class CaRA(Method):
    """W' = W + s T_l, T_l slices of two tensors of canonical rank r over all layers, one for q, k and v, one beside.

    The first has the axes [3 L, D, H, D / H]: for each layer q, k and v, inputs, heads, outputs in a head. The second,
    [9 L, D, D], holds proj and the pieces of fc1 and fc2 that are D wide. proj, fc1 and fc2 get one bias each that all
    layers share. Dropout acts on the entries of T_l. One factor of each starts at zero: the function is unchanged.
    Folds exactly. The paper takes a scale, and mean and deviation of the strengths, for each task; the released
    configuration also a seed. `rank` is half of the release's default.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "ICML 2025"
    mergeable: ClassVar[bool] = True
    size_option: ClassVar[str] = "rank"

    rank: int = option(16, ge=1)
    scale: float = option(1.0, gt=0)
    strength_mean: float = option(1.0)
    strength_std: float = option(0.0, ge=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        pieces = self._pieces(shape)
        per_block = 1 + sum(pieces)
        first = (3 * shape.depth, shape.width, shape.num_heads, shape.width // shape.num_heads)
        second = (per_block * shape.depth, shape.width, shape.width)
        attention, others = (
            share(backbone, name, Canonical(sizes, self.rank, self.strength_mean, self.strength_std))
            for name, sizes in (("attention", first), ("others", second))
        )
        for site in backbone.sites("attn.qkv"):
            self._change(site, attention, Cut(3 * site.layer, 3, turned=True), None)
        roles = {"attn.proj": (0, 1), "mlp.fc1": (1, pieces[0]), "mlp.fc2": (1 + pieces[0], pieces[1])}
        for role, (offset, number) in roles.items():
            sites = backbone.sites(role)
            bias = share(backbone, f"bias_{role.partition('.')[2]}", SharedBias(sites[0].shape.out_dim))
            for site in sites:
                part = Cut(per_block * site.layer + offset, number, joined=role == "mlp.fc2")
                self._change(site, others, part, bias)

    def _change(self, site: Site, tensor: Canonical, part: Cut, bias: SharedBias | None) -> None:
        change = CanonicalChange(tensor, part, bias, self.scale, self.dropout)
        site.wrap(partial(Rewritten, changes={0: change}))

    def _pieces(self, shape: BackboneShape) -> tuple[int, int]:
        """How many times the width fc1's outputs and fc2's inputs are. Raises `NotApplicable` if not whole."""
        if shape.family != "vit":
            raise NotApplicable(f"cara needs one width in all blocks; {shape.family} has one for each stage")
        ups = {site.out_dim for site in shape.at("mlp.fc1")}
        downs = {site.in_dim for site in shape.at("mlp.fc2")}
        if len(ups) != 1 or len(downs) != 1 or any(size % shape.width for size in ups | downs):
            raise NotApplicable(
                f"cara cuts the MLP into pieces of the width {shape.width}; its sizes here are {sorted(ups | downs)}"
            )
        return ups.pop() // shape.width, downs.pop() // shape.width

    def expected_params(self, shape: BackboneShape) -> int:
        width, depth = shape.width, shape.depth
        up, down = self._pieces(shape)
        first = 3 * depth + width + shape.num_heads + width // shape.num_heads + 1
        second = (1 + up + down) * depth + 2 * width + 1
        return self.rank * (first + second) + (2 + up) * width
