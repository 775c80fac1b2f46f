"""CoCoOp (Zhou et al., CVPR 2022, arXiv:2203.05557): the context is moved by what is in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.spec import option
from peftbench.interventions import ImageContext
from peftbench.methods.base import METHODS
from peftbench.methods.of_pair import OfPair


@METHODS.add("cocoop")
@dataclass(frozen=True)
class CoCoOp(OfPair):
    """v_m(x) = v_m + h(f / |f|), h = Linear -> ReLU -> Linear of width E / `reduction` (section 3.2).

    E the joint width, D that of words: M D + (E + 1) E / r + (E / r + 1) D parameters. One pass of all texts for every
    image. Initial weights of h are torch's, as in the released code.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2203.05557"
    identity_at_init: ClassVar[bool] = False

    words: str = option("a photo of a")
    reduction: int = option(16, ge=1)

    def problems(self) -> Sequence[str]:
        return [] if self.words.split() else ["method.words must hold a word for every vector of the context"]

    def attach_pair(self, pair: Pair) -> None:
        hidden = self._hidden(pair.text.spec.joint)
        pair.classes = ImageContext(pair.texts, pair, pair.class_names, self._length, self.words, hidden)

    @property
    def _length(self) -> int:
        return len(self.words.split())

    def _hidden(self, joint: int) -> int:
        return max(joint // self.reduction, 1)

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        hidden = self._hidden(image.joint)
        return self._length * text.width + (image.joint + 1) * hidden + (hidden + 1) * text.width
