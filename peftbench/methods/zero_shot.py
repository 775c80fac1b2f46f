"""Zero-shot classification (Radford et al., ICML 2021, arXiv:2103.00020): the pair as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.methods.base import METHODS, Method


@METHODS.add("zero_shot")
@dataclass(frozen=True)
class ZeroShot(Method):
    """Lower reference of pairs: logits = scale * cos(f, w_c) (section 3.1.2). Nothing trains."""

    family: ClassVar[str] = "reference"
    paper: ClassVar[str] = "arXiv:2103.00020"
    mergeable: ClassVar[bool] = True
    of_pairs: ClassVar[bool] = True
    trains_nothing: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        """Nothing to do."""

    def expected_params(self, shape: BackboneShape) -> int:
        return 0
