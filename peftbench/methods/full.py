"""Full fine-tuning: every tensor of the backbone trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import key_third, unread_positions


@METHODS.add("full")
@dataclass(frozen=True)
class Full(Method):
    """Upper reference: nothing is added and nothing stays frozen."""

    family: ClassVar[str] = "selection"
    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        unfreeze(backbone)

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.num_parameters

    def inert(self, backbone: Backbone) -> dict[str, slice | Tensor]:
        """The key third of a qkv bias: it shifts all scores of a query equally, which softmax cancels.

        And relative positions of the last block that only tokens ask for which are not pooled.
        """
        return {**key_third(backbone, "bias"), **unread_positions(backbone)}
