"""Fine-tuning chosen parts of the backbone: the last blocks, attention only, the MLPs only, whole blocks only.

Partial-k is the baseline of VPT (Jia et al., ECCV 2022, arXiv:2203.12119, section 4.1); attention only comes from
"Three things everyone should know about vision transformers" (Touvron et al., ECCV 2022, arXiv:2203.09795, section 4);
the per-block choice of parts from "Lessons and insights from a unifying study of PETL in visual recognition" (Mai et
al., CVPR 2025, arXiv:2409.16434), whose example trains the last three of twelve blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, SiteShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import key_third, unread_positions


@dataclass(frozen=True)
class _Parts(Method):
    """Existing tensors train in place: nothing is added, nothing is left to merge."""

    family: ClassVar[str] = "selection"
    mergeable: ClassVar[bool] = True

    num_blocks: int | None = option(None, ge=1)

    def role(self) -> str:
        """The role whose modules train, in the last `num_blocks` blocks (null: in all)."""
        raise NotImplementedError

    def chosen(self, site: SiteShape, depth: int) -> bool:
        first = 0 if self.num_blocks is None else depth - self.num_blocks
        return site.role == self.role() and site.layer >= first

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        backbone.sites(self.role())
        if self.num_blocks is not None and self.num_blocks > shape.depth:
            raise NotApplicable(f"method.num_blocks is {self.num_blocks}, but the backbone has {shape.depth} blocks")
        unfreeze(*(site.module for site in backbone.all_sites if self.chosen(site.shape, shape.depth)))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(site.num_parameters for site in shape.sites if self.chosen(site, shape.depth))

    def inert(self, backbone: Backbone) -> dict[str, slice | Tensor]:
        """The key third of a qkv bias: it shifts all scores of a query equally, which softmax cancels.

        And relative positions of the last block that only tokens ask for which are not pooled.
        """
        return {**key_third(backbone, "bias"), **unread_positions(backbone)}


@METHODS.add("partial_k")
@dataclass(frozen=True)
class PartialK(_Parts):
    """The last k blocks and the norm behind them; k (12 D^2 + 13 D) + 2 D parameters on a plain ViT."""

    paper: ClassVar[str] = "arXiv:2203.12119"
    size_option: ClassVar[str] = "num_blocks"

    num_blocks: int = option(1, ge=1)

    def role(self) -> str:
        return "block"

    def chosen(self, site: SiteShape, depth: int) -> bool:
        return site.role == "norm.final" or super().chosen(site, depth)


@METHODS.add("attn_only")
@dataclass(frozen=True)
class AttentionOnly(_Parts):
    """Everything inside attention and the position embedding; L (4 D^2 + 4 D) + (N + 1) D on a plain ViT.

    The patch embedding, the class token and all norms outside attention stay frozen. `part` restricts this to one of
    the two linear maps. Families without a learned position embedding of tokens train attention alone (Swin's
    relative position biases belong to attention).
    """

    paper: ClassVar[str] = "arXiv:2203.09795"

    part: str = option("all", choices=("all", "qkv", "proj"))
    position_embedding: bool = option(True)

    def role(self) -> str:
        return "attn" if self.part == "all" else f"attn.{self.part}"

    def attach(self, backbone: Backbone) -> None:
        super().attach(backbone)
        if self.position_embedding and backbone.shape.num_positions:
            positions = backbone.net.pos_embed
            assert isinstance(positions, nn.Parameter)
            unfreeze(positions)

    def expected_params(self, shape: BackboneShape) -> int:
        positions = shape.num_positions * shape.width if self.position_embedding else 0
        return super().expected_params(shape) + positions


@METHODS.add("mlp_only")
@dataclass(frozen=True)
class MLPOnly(_Parts):
    """The MLP of every block; L (8 D^2 + 5 D) on a plain ViT. `part` restricts this to one of the two linear maps."""

    paper: ClassVar[str] = "arXiv:2409.16434"

    part: str = option("all", choices=("all", "fc1", "fc2"))

    def role(self) -> str:
        return "mlp" if self.part == "all" else f"mlp.{self.part}"


@METHODS.add("block_only")
@dataclass(frozen=True)
class BlockOnly(_Parts):
    """The last blocks without the norm behind them; 12 D^2 + 13 D each on a plain ViT."""

    paper: ClassVar[str] = "arXiv:2409.16434"

    num_blocks: int | None = option(3, ge=1)

    def role(self) -> str:
        return "block"
