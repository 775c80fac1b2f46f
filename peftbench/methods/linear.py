"""Linear probing: only the classifier trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.methods.base import METHODS, Method


@METHODS.add("linear")
@dataclass(frozen=True)
class Linear(Method):
    """Lower reference: logits = W_head norm(x)[pooled] + b on frozen features."""

    family: ClassVar[str] = "selection"
    mergeable: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Nothing to do: `install` has frozen the backbone and the classifier always trains."""

    def expected_params(self, shape: BackboneShape) -> int:
        return 0
