"""CoOp (Zhou et al., IJCV 2022, arXiv:2109.01134): the words around a class name are learned vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.spec import option
from peftbench.interventions import LearnedContext
from peftbench.methods.base import METHODS
from peftbench.methods.of_pair import OfPair

POSITIONS = ("end", "middle", "front")


@METHODS.add("coop")
@dataclass(frozen=True)
class CoOp(OfPair):
    """t_c = v_1 ... v_M, the name of c and a full stop, with learned v of the width of words (section 3.2).

    Generic: M D parameters shared by all classes. `class_specific`: C M D, of every class its own. `position` says
    where the name stands; the full stop is always there. `words` ("a photo of a") start the vectors, one each, and say
    how many there are; else N(0, 0.02).
    Gradients go through the whole text tower; the image tower has none.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2109.01134"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(16, ge=1)
    words: str = option("")
    class_specific: bool = option(False)
    position: str = option("end", choices=POSITIONS)
    zeros: int = option(0, ge=0, later=True)

    def problems(self) -> Sequence[str]:
        if self.words and self.class_specific:
            return ["method.words start a context that all classes share; set method.class_specific=false"]
        if self.zeros and not self.words:
            return ["method.zeros stand ahead of method.words; name some, or set method.zeros=0"]
        return ()

    @property
    def bound_to_classes(self) -> bool:
        return self.class_specific

    def attach_pair(self, pair: Pair) -> None:
        pair.classes = LearnedContext(
            pair.texts,
            pair,
            pair.class_names,
            self.length,
            self.position,
            self.class_specific,
            self.words,
            zeros=self.zeros,
        )

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        sets = image.num_classes if self.class_specific else 1
        return sets * self.length * text.width

    @property
    def length(self) -> int:
        """How many vectors a context has."""
        return self.zeros + len(self.words.split()) or self.num_tokens
