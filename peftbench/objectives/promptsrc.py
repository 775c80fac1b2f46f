"""PromptSRC (Khattak et al., ICCV 2023, arXiv:2307.06948): prompts that stay near what the untouched pair says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.class_texts import ClassTexts
from peftbench.backbones.pair import Pair
from peftbench.data.templates import IMAGENET_60
from peftbench.foundation.errors import BadInput, NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.objectives.base import OBJECTIVES
from peftbench.objectives.of_pair import BesideUntouched, Untouched, compared
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("promptsrc")
@dataclass(frozen=True)
class PromptSRC(BesideUntouched):
    """CE + text_weight mean|w - w0| + image_weight mean|f - f0| + KL(p0, p) / C (section 3).

    All features at length 1. w0 is the mean over 60 templates of the untouched pair's text features, f0 its image
    features, p0 = softmax of their logits; KL is the mean over the batch. The L1 means run over all entries. Templates
    with words that the pair's tokenizer does not know are left out. The paper's average of the weights of all epochs
    is `optim.average_mean` and `optim.average_std`; with `method=ivlp` this is PromptSRC.
    """

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "arXiv:2307.06948"
    text_weight: float = option(25.0, ge=0)
    image_weight: float = option(10.0, ge=0)

    def untouched(self, pair: Pair) -> Untouched:
        texts = written(pair)
        with torch.no_grad():
            mean = texts.each(pair).mean(dim=0)
        return Untouched(mean, pair)

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        pair, untouched = self.both(model)

        def loss_fn(_: Model, batch: Batch) -> Tensor:
            f, w, logits = compared(pair, batch["image"], model.num_trained)
            f0, w0 = untouched.features(batch["image"]), untouched.w[: model.num_trained]
            known = exact(pair.match(f0, w0)).detach()
            of_texts = F.l1_loss(F.normalize(exact(w), dim=-1), w0.expand_as(w))
            of_images = F.l1_loss(F.normalize(exact(f), dim=-1), f0)
            log_p, log_p0 = F.log_softmax(exact(logits), dim=1), F.log_softmax(known, dim=1)
            talk = F.kl_div(log_p, log_p0, reduction="sum", log_target=True) / logits.numel()
            return base(lambda *_: logits, batch) + self.text_weight * of_texts + self.image_weight * of_images + talk

        return loss_fn


def written(pair: Pair) -> ClassTexts:
    """The classes in every one of the 60 templates that the pair can write. Raises `NotApplicable` where it is none."""
    known = [template for template in IMAGENET_60 if _can_write(pair, template)]
    if not known:
        raise NotApplicable("no template of PromptSRC can be written in this pair's words")
    return ClassTexts.of(pair, pair.class_names, known).to(pair.device)


def _can_write(pair: Pair, template: str) -> bool:
    try:
        pair.tokenizer.pieces(template.format(""))
    except BadInput:
        return False
    return True
