"""MaPLe (Khattak et al., CVPR 2023, arXiv:2210.03117): prompts of images made of those of texts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.spec import option
from peftbench.interventions import AppendTokens, Drawn, Projected, ReplaceTokens, append_ahead
from peftbench.methods.base import METHODS
from peftbench.methods.ivlp import first_words, require_one_sequence
from peftbench.methods.of_pair import OfPair


@METHODS.add("maple")
@dataclass(frozen=True)
class MaPLe(OfPair):
    """P^v_i = F_i(P^t_i), F_i linear of its own for every depth i (section 3).

    Text: the first `num_tokens` words of `words` are learned, the rest stay words; ahead of blocks 2 to `depth` they
    are replaced by new tokens from N(0, 0.02). Image: the projected ones at the end of the sequence, ahead of a norm
    that stands before the first block, replaced likewise. F_i start as torch starts them, those of the deep ones as
    copies of one. With J depths: J (M D_t + D_t D_v + D_v) parameters.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2210.03117"
    identity_at_init: ClassVar[bool] = False

    num_tokens: int = option(2, ge=1)
    depth: int = option(9, ge=1)
    words: str = option("a photo of a")

    def attach_pair(self, pair: Pair) -> None:
        image, text = pair.image, pair.text
        require_one_sequence(self.name, image)
        context = first_words(pair, self.num_tokens, self.words)
        pair.classes = context
        to_image = nn.Linear(text.shape.width, image.shape.width).to(pair.device)
        append_ahead(image, Projected(context, "context", to_image))
        deep = nn.Linear(text.shape.width, image.shape.width).to(pair.device)
        blocks = range(1, self._depth(pair.shape))
        for of_image, of_text in zip(image.sites("block", blocks), text.sites("block", blocks), strict=True):
            tokens = Drawn(self.num_tokens, text.shape.width)
            of_text.wrap(partial(ReplaceTokens, tokens=tokens, start=1))
            projected = Projected(tokens, "tokens", copy.deepcopy(deep))
            of_image.wrap(partial(AppendTokens, tokens=projected, replace=True))

    def _depth(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        return min(self.depth, image.depth, text.depth)

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        each = self.num_tokens * text.width + text.width * image.width + image.width
        return self._depth(shape) * each
