"""Prompts in both towers, apart from each other (IVLP, of the code of MaPLe, arXiv:2210.03117, and PromptSRC)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import AppendTokens, Drawn, LearnedContext, ReplaceTokens, append_ahead
from peftbench.methods.base import METHODS
from peftbench.methods.of_pair import OfPair


@METHODS.add("ivlp")
@dataclass(frozen=True)
class IVLP(OfPair):
    """Tokens of its own in each of the first `depth` blocks of each tower.

    Text: the first `text_tokens` words of `words` are learned and the rest stay words; ahead of each further block they
    are replaced by new ones. Image: `image_tokens` at the end of the sequence, ahead of a norm that stands before the
    first block, replaced likewise. New ones from N(0, 0.02). Behind block `depth` the last ones flow on.
    depth (text_tokens D_t + image_tokens D_v) parameters.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2210.03117"
    identity_at_init: ClassVar[bool] = False

    text_tokens: int = option(4, ge=1)
    image_tokens: int = option(4, ge=1)
    depth: int = option(9, ge=1)
    words: str = option("a photo of a")

    def attach_pair(self, pair: Pair) -> None:
        image, text = pair.image, pair.text
        require_one_sequence(self.name, image)
        pair.classes = first_words(pair, self.text_tokens, self.words)
        append_ahead(image, Drawn(self.image_tokens, image.shape.width))
        for site in image.sites("block", range(1, self.depth)):
            site.wrap(partial(AppendTokens, tokens=Drawn(self.image_tokens, image.shape.width), replace=True))
        for site in text.sites("block", range(1, self.depth)):
            site.wrap(partial(ReplaceTokens, tokens=Drawn(self.text_tokens, text.shape.width), start=1))

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        in_image, in_text = (min(self.depth, tower.depth) for tower in (image, text))
        return in_image * self.image_tokens * image.width + in_text * self.text_tokens * text.width


def first_words(pair: Pair, number: int, words: str) -> LearnedContext:
    """A context of `number` tokens that starts as the first of `words`; the others stay behind it as words.

    Where there are fewer words than tokens, all are drawn.
    """
    known = words.split()
    learned, rest = (" ".join(known[:number]), " ".join(known[number:])) if len(known) >= number else ("", "")
    return LearnedContext(pair.texts, pair, pair.class_names, number, words=learned, words_behind=rest)


def require_one_sequence(name: str, image: Backbone) -> None:
    """Raises `NotApplicable` where tokens at the end of the sequence cannot go through all blocks unread."""
    if image.shape.family != "vit" or image.turns_keys:
        what = "turns keys by their place" if image.shape.family == "vit" else "has windows or maps"
        raise NotApplicable(f"{name} appends tokens to one sequence; this image tower {what}")
    if image.num_pooled is None:
        raise NotApplicable(f"{name} leaves its tokens in the sequence; this image tower pools over all of them")
