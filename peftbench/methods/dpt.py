"""DPT (Xing et al., IEEE TMM 2023, arXiv:2208.08340): prompts in both towers, the last ones made of likely classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import ClassAware, ClassPrompts, Drawn, LearnedContext, PromptedBeside
from peftbench.methods.base import METHODS
from peftbench.methods.ivlp import require_one_sequence
from peftbench.methods.of_pair import OfPair

_KEYS, _LOOKED_AT = 32, 10
# of the rate of the image's prompts: 0.002 beside 0.01
TEXT_RATE = 0.2


@METHODS.add("dpt")
@dataclass(frozen=True)
class DPT(OfPair):
    """CoOp's context, VPT's tokens in all image blocks but the last, class-aware prompts in the last (section 3).

    The `num_classes` classes that the untouched pair finds likeliest each become a prompt of the last block: their text
    features, mapped to the image's width, look at its tokens (see `interventions.class_aware`). All tokens stand at
    the end of the sequence and are cut off behind their block. The context has `TEXT_RATE` of the learning rate
    behind the warm-up. With M
    vectors, T tokens, E the joint and D_v, D_t the towers' widths: M D_t + (L - 1) T D_v + (E + 1) D_v + 64 D_v + D_v^2
    + 2 D_v + 10 D_v parameters; `objective=dpt` has (C + 2) D_v of its own for C classes.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2208.08340"
    # 2: the context warms up at the rate of the rest
    version: ClassVar[int] = 2
    identity_at_init: ClassVar[bool] = False
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "All warms up for one epoch; in the released code texts do so and images for ten."

    context: int = option(16, ge=1)
    num_tokens: int = option(10, ge=1)
    num_classes: int = option(10, ge=1)

    @property
    def bound_to_classes(self) -> bool:
        # by what its objective trains
        return True

    def attach_pair(self, pair: Pair) -> None:
        image, width = pair.image, pair.image.shape.width
        require_one_sequence(self.name, image)
        if image.shape.depth < 2:
            raise NotApplicable(f"{self.name} needs blocks ahead of the last one")
        with torch.no_grad():
            known = pair.class_features(torch.zeros(1, pair.feature_dim, device=pair.device))
        pair.classes = LearnedContext(pair.texts, pair, pair.class_names, self.context)
        *blocks, last = image.sites("block")
        for site in blocks:
            site.wrap(partial(PromptedBeside, tokens=Drawn(self.num_tokens, width)))
        [norm] = [site.module for site in image.all_sites if site.shape.role == "norm.final"]
        prompts = ClassPrompts(pair.feature_dim, width)
        number = min(self.num_classes, len(pair.class_names))
        last.wrap(partial(ClassAware, prompts=prompts, known=known, number=number, reader=pair, norm=norm))

    def lr_scale(self, tensor: str) -> float:
        return TEXT_RATE if tensor.endswith("classes.context") else 1.0

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        width = image.width
        looks = (image.joint + 1) * width + 2 * width * _KEYS + width**2 + 2 * width + _LOOKED_AT * width
        tokens = (image.depth - 1) * self.num_tokens * width
        return self.context * text.width + tokens + looks
