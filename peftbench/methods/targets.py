"""Methods on chosen matrices: where the matrices lie, and one module for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import Dropped, LinearDelta, Rewritten, joins_as_it_is
from peftbench.methods.base import Method
from peftbench.methods.inert import norms_keys

# slice of the fused qkv that a target names
SLICES = {"q": 0, "k": 1, "v": 2}
ROLES = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
# q, k and v each a matrix of its own
TARGETS = (*SLICES, *ROLES)
# q, k and v as the one matrix they are stored in
FUSED_ROLES = {"qkv": "attn.qkv", **ROLES}
FUSED_TARGETS = tuple(FUSED_ROLES)


@dataclass(frozen=True)
class Matrix:
    """A frozen matrix `weight` [out_dim, in_dim] that a target names, and the block it belongs to."""

    target: str
    layer: int
    weight: Tensor
    has_bias: bool

    @property
    def name(self) -> str:
        """As in `Targeted.named_matrices`."""
        return f"{self.layer}.{self.target}"

    @property
    def in_dim(self) -> int:
        return self.weight.shape[1]

    @property
    def out_dim(self) -> int:
        return self.weight.shape[0]


class Targeted(Method):
    """Base of methods that give each matrix of their `targets` a module of its own."""

    family: ClassVar[str] = "reparametrisation"
    mergeable: ClassVar[bool] = True

    targets: list[str]

    def problems(self) -> Sequence[str]:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            return [f"method.targets must name each target once and at least one, got {self.targets}"]
        return ()

    def module(self, matrix: Matrix, common: Any) -> nn.Module | None:
        """What works on one matrix, None where nothing does. `common` is what `prepare` returned, or the findings."""
        raise NotImplementedError

    def size(self, in_dim: int, out_dim: int) -> int:
        """Trainable parameters of the module of a matrix [out_dim, in_dim]."""
        raise NotImplementedError

    def prepare(self, backbone: Backbone) -> Any:
        """What the modules have in common. Raises `NotApplicable` where the matrices do not fit."""
        return None

    @property
    def slices(self) -> list[int]:
        return sorted(SLICES[target] for target in self.targets if target in SLICES)

    @property
    def roles(self) -> list[str]:
        return [FUSED_ROLES[target] for target in self.targets if target in FUSED_ROLES]

    def linear_maps(self, backbone: Backbone) -> list[tuple[Site, dict[int, Matrix]]]:
        """The sites that hold targeted matrices, and these by the number of their slice.

        Raises `NotApplicable` where one is no linear map.
        """
        found = []
        for site, slices, num_slices in [
            *((site, self.slices, 3) for site in (backbone.sites("attn.qkv") if self.slices else [])),
            *((site, [0], 1) for role in self.roles for site in backbone.sites(role)),
        ]:
            if not isinstance(site.module, nn.Linear):
                raise NotApplicable(
                    f"{self.name} works on linear maps, the {site.shape.role} here is a {type(site.module).__name__}"
                )
            parts = site.module.weight.chunk(num_slices)
            targets = list(SLICES) if num_slices == 3 else [site.shape.role.rpartition(".")[2]]
            has_bias = site.module.bias is not None
            found.append((site, {i: Matrix(targets[i], site.layer, parts[i], has_bias) for i in slices}))
        return found

    def attach(self, backbone: Backbone) -> None:
        maps = self.linear_maps(backbone)
        self.place(maps, self.prepare(backbone))

    def place(self, maps: Sequence[tuple[Site, dict[int, Matrix]]], common: Any) -> None:
        """Give the matrices their modules."""
        for site, matrices in maps:
            given = {number: self.module(matrix, common) for number, matrix in matrices.items()}
            modules = {number: module for number, module in given.items() if module is not None}
            if not modules:
                continue
            num_slices = 3 if site.shape.role == "attn.qkv" and self.slices else 1
            site.wrap(lambda base, modules=modules, num=num_slices: self.act(base, modules, num))  # type: ignore[misc]

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        """`base` with the modules of its matrices: by default added to its output."""
        return LinearDelta(base, modules, num_slices)

    def named_matrices(self, shape: BackboneShape) -> Iterator[tuple[str, int, int]]:
        """Name and widths (in_dim, out_dim) of all matrices that the targets name."""
        for site in shape.at("attn.qkv") if self.slices else []:
            for number in self.slices:
                yield f"{site.layer}.{list(SLICES)[number]}", site.in_dim, site.out_dim // 3
        for site in shape.at(*self.roles):
            yield f"{site.layer}.{site.role.rpartition('.')[2]}", site.in_dim, site.out_dim

    def matrices(self, shape: BackboneShape) -> Iterator[tuple[int, int]]:
        """Widths (in_dim, out_dim) of all matrices that the targets name."""
        return ((in_dim, out_dim) for _, in_dim, out_dim in self.named_matrices(shape))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(self.size(in_dim, out_dim) for in_dim, out_dim in self.matrices(shape))


class Dropping(Targeted):
    """Base of those whose change of a matrix is dropped in training, whole or row by row."""

    rank_dropout: float
    module_dropout: float
    rank_dropout_scale: bool

    def problems(self) -> Sequence[str]:
        chosen = self.rank_dropout_scale != type(self).rank_dropout_scale
        idle = chosen and not self.rank_dropout
        return [*super().problems(), *(["method.rank_dropout_scale goes with method.rank_dropout"] if idle else [])]

    @property
    def dropped(self) -> Dropped:
        return Dropped(self.rank_dropout, self.module_dropout, self.rank_dropout_scale)


class Rewriting(Targeted):
    """Base of methods whose modules change weight and bias of their matrices, in place of adding to the output."""

    def act(self, base: nn.Module, modules: dict[int, nn.Module], num_slices: int) -> nn.Module:
        return Rewritten(base, modules, num_slices)


def random_places(matrix: Matrix, number: int, generator: torch.Generator) -> Tensor:
    """Ascending random places of the flattened matrix, int64 [number], drawn on the CPU: the same on every device."""
    places = torch.randperm(matrix.weight.numel(), generator=generator, device="cpu")[:number]
    return places.sort().values.to(matrix.weight.device)


def singular_triples(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U_r [out, rank], S_r [rank] and V_r^T [rank, in] of the largest singular values of `weight`, at most all.

    Decomposed on the CPU: another device may turn singular vectors, and what trains between them would not fit.
    """
    u, s, vt = (part.to(weight.device) for part in torch.linalg.svd(on_host(weight), full_matrices=False))
    return u[:, :rank], s[:rank], vt[:rank]


def on_host(weight: Tensor) -> Tensor:
    """The numbers of `weight` on the CPU; a weight of a network that is only outlined has none and stays as it is."""
    weight = weight.detach()
    return weight if weight.is_meta else weight.cpu()


def offsets_without_effect(
    backbone: Backbone, vectors: Callable[[Any], Sequence[tuple[nn.Parameter, bool]]]
) -> dict[str, Tensor]:
    """Masks of the entries of trained vectors over the fused qkv's outputs that no gradient reaches.

    `vectors` gives those of a change of the whole map, each with whether it multiplies the bias or adds to it. Softmax
    cancels an offset that all keys share, unless they are normed or turned behind it; zero stays under any factor.
    """
    names, found = {id(tensor): name for name, tensor in backbone.trainable}, {}
    for site in backbone.sites("attn.qkv"):
        if not isinstance(site.module, Rewritten):
            continue
        bias, width = site.module.base.bias, site.shape.out_dim // 3
        felt = backbone.turns_keys or norms_keys(site.parent)
        for vector, multiplies in vectors(site.module.changes["0"]):
            if vector.numel() != site.shape.out_dim:
                continue
            mask = torch.zeros(site.shape.out_dim, dtype=torch.bool, device=vector.device)
            mask[width : 2 * width] = not felt
            if multiplies and isinstance(bias, Tensor):
                mask |= bias == 0
            if mask.any():
                found[names[id(vector)]] = mask.view_as(vector)
    return found


def lost_offsets(backbone: Backbone, of_token: bool) -> Iterator[Site]:
    """attn.proj and mlp.fc2 of blocks where an offset that all channels of their output share reaches nothing.

    It joins the stream as it is, and layer norms, which subtract it, are all that reads the stream. A norm over several
    tokens at once (a merging step) does so only where the offset is the same for all of them, and not one `of_token`s.
    """
    readers = ("norm.1", "norm.2", "norm.merge", "norm.final")
    subtract = all(isinstance(site.module, nn.LayerNorm) for site in backbone.all_sites if site.shape.role in readers)
    if not subtract or not backbone.sites("norm.final") or backbone.shape.family not in ("vit", "swin", "video_swin"):
        return
    blocks = {site.layer: site.module for site in backbone.sites("block")}
    for role, half in (("attn.proj", "attn"), ("mlp.fc2", "mlp")):
        for site in backbone.sites(role):
            merged = site.shape.out_dim != backbone.shape.width
            if joins_as_it_is(blocks[site.layer], half) and not (merged and of_token):
                yield site
