"""Base of methods that are given a pair of towers as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import Backbone
from peftbench.backbones.pair import Pair
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import Method


@dataclass(frozen=True)
class OfPair(Method):
    """Base of methods that change both towers of a pair, or what lies between them, in `attach_pair`."""

    of_pairs: ClassVar[bool] = True

    def attach(self, backbone: Backbone) -> None:
        if not isinstance(backbone, Pair) or backbone.classes is None:
            raise NotApplicable(f"{self.name} compares images with the texts of classes: task=text_classification")
        self.attach_pair(backbone)

    def attach_pair(self, pair: Pair) -> None:
        raise NotImplementedError
