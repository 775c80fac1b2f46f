"""CLIP-LoRA (Zanella and Ben Ayed, CVPR workshops 2024, arXiv:2405.18541): LoRA on q, k and v of both towers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.pair import both_shapes
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS, TOWERS
from peftbench.methods.lora import INITS, LoRA
from peftbench.methods.targets import TARGETS


@METHODS.add("clip_lora")
@dataclass(frozen=True)
class CLIPLoRA(LoRA):
    """W' = W + (alpha / sqrt(rank)) B A on q, k and v, each a matrix of its own, in every block of both towers.

    Dropout acts on the input of A, independently for each matrix. One setting for all data sets (section 4), nothing is
    validated. 6 rank D L parameters a tower.
    """

    paper: ClassVar[str] = "arXiv:2405.18541"
    of_pairs: ClassVar[bool] = True
    chooses_towers: ClassVar[bool] = True

    rank: int = option(2, ge=1)
    alpha: float = option(1.0, gt=0)
    dropout: float = option(0.25, ge=0, lt=1)
    targets: list[str] = option(["q", "k", "v"], choices=TARGETS)
    init: str = option("kaiming", choices=INITS, later=True)
    # the released code's, and not the alpha / rank of LoRA
    scaling: str = option("rank_root", choices=("rank", "rank_root"), later=True)
    towers: list[str] = option(["image", "text"], choices=TOWERS, later=True)

    def attach(self, backbone: Backbone) -> None:
        for name in self.towers:
            super().attach(backbone.towers[name])

    def expected_params(self, shape: BackboneShape) -> int:
        towers = dict(zip(TOWERS, both_shapes(shape), strict=True))
        return sum(super(CLIPLoRA, self).expected_params(towers[name]) for name in self.towers)
