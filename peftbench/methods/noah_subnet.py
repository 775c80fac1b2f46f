"""NOAH's found sub-nets (Zhang et al., 2022, arXiv:2206.04673): prompts, LoRA and adapters sized block by block."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, ClassVar

from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Bottleneck, InsertTokens, LinearDelta, LowRank, StripTokens, Tap, tap_block
from peftbench.methods.base import METHODS, Method

# prompts, ranks and adapter width of the super-net, whose first entries are a sub-net's: the released code takes the
# xavier bounds from its shapes
SUPERNET_SIZE = 100


# prompts, LoRA rank and adapter width of a block
Sizes = tuple[int, int, int]


def published() -> dict[str, dict[str, list[int]]]:
    """Task -> `prompts`, `lora_ranks`, `adapter_widths` of the 12 blocks, as released for VTAB-1k.

    The files of dtd and oxford_flowers102 give their prompt list as LoRA list, too, and some adapter lists recur
    between tasks; they are kept as released.
    """
    tables: dict[str, dict[str, list[int]]] = {}
    text = (files("peftbench") / "assets" / "noah_subnets.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        task, module = row.pop("task"), row.pop("module")
        tables.setdefault(task, {})[module] = [int(size) for size in row.values()]
    return tables


def tasks() -> list[str]:
    return list(published())


@METHODS.add("noah_subnet")
@dataclass(frozen=True)
class NOAHSubnet(Method):
    """Block l: p_l prompts of its own (as VPT-deep), qkv + B A n with rank r_l, y + up(quick_gelu(down(y))), y = mlp.

    A [r, D] and B [3 D, r] serve q, k and v together; the adapter of width h_l sits behind the MLP and its stochastic
    depth. Prompts replace those of the block before; a block without any still sees the ones that are there, and the
    next prompts join them. `subnet` takes
    the sizes that the search found for a VTAB-1k task on 12 blocks (section 3.2 and released configurations); an
    explicit list (`prompts`, `lora_ranks`, `adapter_widths`, one number per block, 0 for none) replaces its part, and
    other depths need all three. The search itself is `noah_supernet`. sum p D + 4 D r + (2 D h + h + D) parameters.

    Prompts and adapters are drawn as the first entries of the released super-net's, which has 100 of each: xavier with
    bounds sqrt(6 / (101 D)) and sqrt(6 / (D + 100)). LoRA starts from kaiming and zero, biases from zero, which the
    adapter's own init there draws with std 1e-6. Left out, since they are slips of that code: a second prompt that no
    block sees, and the init of the whole network, which comes last and draws every linear map again (normal, std 0.02):
    A, B, which no longer is zero, and both maps of the adapters.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2206.04673"
    identity_at_init: ClassVar[bool] = False
    version: ClassVar[int] = 4

    subnet: str = option("cifar100", choices=tasks)
    prompts: list[int] = option([], ge=0)
    lora_ranks: list[int] = option([], ge=0)
    adapter_widths: list[int] = option([], ge=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def problems(self) -> Sequence[str]:
        lengths = {len(sizes) for sizes in (self.prompts, self.lora_ranks, self.adapter_widths) if sizes}
        if len(lengths) > 1:
            return ["method.prompts, method.lora_ranks and method.adapter_widths must have one number per block each"]
        return ()

    def _sizes(self, depth: int) -> list[Sizes]:
        """Prompts, rank and adapter width of each block. Raises `NotApplicable` unless there is one for each."""
        found = published()[self.subnet]
        lists = [
            self.prompts or found["prompts"],
            self.lora_ranks or found["lora_ranks"],
            self.adapter_widths or found["adapter_widths"],
        ]
        if any(len(sizes) != depth for sizes in lists):
            raise NotApplicable(
                f"{self.name} has sizes for {len(lists[0])} blocks, the backbone has {depth}; "
                "set method.prompts, method.lora_ranks and method.adapter_widths to one number per block"
            )
        return list(zip(*lists, strict=True))

    def attach(self, backbone: Backbone) -> None:
        require_tokens(self.name, backbone)
        insert(backbone, self._sizes(backbone.shape.depth), self.dropout)

    def expected_params(self, shape: BackboneShape) -> int:
        return count(shape, self._sizes(shape.depth))


def require_tokens(name: str, backbone: Backbone) -> None:
    """Raises `NotApplicable` unless the blocks pass one token sequence on."""
    family = backbone.shape.family
    if family != "vit":
        raise NotApplicable(f"{name} needs one token sequence in all blocks; {family} has windows or maps")


def insert(
    backbone: Backbone,
    sizes: Sequence[Sizes],
    dropout: float,
    tokens: type[InsertTokens] = InsertTokens,
    pair: type[LowRank] = LowRank,
    adapter: type[Bottleneck] = Bottleneck,
) -> None:
    """Give each block prompts, a pair on qkv and an adapter of the sizes in `sizes`; 0 leaves one out."""
    shape = backbone.shape
    for (_, rank, _), site in zip(sizes, backbone.sites("attn.qkv"), strict=True):
        if rank:
            delta = pair(site.shape.in_dim, site.shape.out_dim, rank, dropout=dropout)
            site.wrap(partial(LinearDelta, deltas={0: delta}))
    for (_, _, width), site in zip(sizes, backbone.sites("block"), strict=True):
        if width:
            behind = adapter(site.shape.out_dim, width, "quick_gelu", dropout, init="xavier")
            for linear in (behind.down, behind.up):
                _draw_xavier(linear.weight, site.shape.out_dim + SUPERNET_SIZE)
            site.wrap(partial(tap_block, taps=[Tap("mlp", behind, place="behind")]))
    prompts = [num_tokens for num_tokens, _, _ in sizes]
    for num_tokens, before, site in zip(prompts, [0, *prompts], backbone.sites("block"), strict=False):
        if num_tokens:
            inserted = site.wrap(
                partial(
                    tokens,
                    num_tokens=num_tokens,
                    width=shape.width,
                    patch_size=shape.patch_size,
                    num_prefix=shape.num_prefix_tokens,
                    dropout=dropout,
                    strip=False,
                    num_replaced=before,
                )
            )
            # of a tensor [1, tokens, width]
            _draw_xavier(inserted.tokens, (1 + SUPERNET_SIZE) * shape.width)
    if any(prompts):
        last = backbone.sites("block")[-1]
        last.wrap(partial(StripTokens, num_tokens=left_at_the_end(prompts), num_prefix=shape.num_prefix_tokens))


def _draw_xavier(tensor: Any, fans: int) -> None:
    """Uniform, as xavier draws a tensor of which this is a part and whose fans have the sum `fans`."""
    bound = math.sqrt(6 / fans)
    nn.init.uniform_(tensor, -bound, bound)


def left_at_the_end(prompts: Sequence[int]) -> int:
    """How many prompts the last block sees: each block's replace those of the block just before it, if any."""
    present = 0
    for num_tokens, before in zip(prompts, [0, *prompts], strict=False):
        if num_tokens:
            present += num_tokens - before
    return present


def count(shape: BackboneShape, sizes: Sequence[Sizes]) -> int:
    """Parameters of what `insert` adds."""
    total = 0
    for (num_tokens, rank, h), qkv, block in zip(sizes, shape.at("attn.qkv"), shape.at("block"), strict=True):
        total += num_tokens * shape.width + rank * (qkv.in_dim + qkv.out_dim)
        total += 2 * block.out_dim * h + h + block.out_dim if h else 0
    return total
