"""DPT's loss (Xing et al., IEEE TMM 2023, arXiv:2208.08340): each tower against the other one as it was, then both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions.class_aware import ClassAware
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.objectives.of_pair import OfClasses, compared, pair_that_reads, texts_of_classes
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("dpt")
@dataclass(frozen=True)
class DPT(Objective):
    """In the first `apart_epochs`: CE(f0, w) + CE(f, w0) + `both_weight` CE(f, w); then CE(f, w) (released code).

    f and w are features of images and classes, f0 and w0 those of the untouched pair. Always + `says_weight` times the
    mean cross-entropy of C LN(o), o what the prompt of the true class found, where that class is among the chosen ones;
    C and LN are trained with it: (classes + 2) D parameters.
    """

    paper: ClassVar[str] = "arXiv:2208.08340"
    of_pairs: ClassVar[bool] = True

    apart_epochs: int = option(30, ge=0)
    both_weight: float = option(0.1, ge=0)
    says_weight: float = option(0.3, ge=0)

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        pair = pair_that_reads(self.name, backbone)
        width = pair.image.shape.width
        voice = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes, bias=False))
        return nn.ModuleDict({"known": OfClasses(texts_of_classes(pair)), "voice": voice.to(pair.device)})

    def install(self, model: TaskModel, own: nn.Module) -> None:
        aware = aware_of(model)
        aware.listens = True
        aware.add_module("voice", own.get_submodule("voice"))
        model.add_module("known", own.get_submodule("known"))

    def expected_params(self, shape: BackboneShape, num_classes: int) -> int:
        return (num_classes + 2) * shape.width

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        pair, aware = pair_that_reads(self.name, model.backbone), aware_of(model)
        known, voice = model.get_submodule("known"), aware.get_submodule("voice")
        assert isinstance(known, OfClasses)

        def loss_fn(_: Model, batch: Batch) -> Tensor:
            # of base classes alone it does not train: what it learns belongs to its classes
            f, w, logits = compared(pair, batch["image"], None)
            found, chosen, f0 = aware.take()
            loss = base(lambda *_: logits, batch)
            # all samples of a batch are of one epoch, and a batch to count by, which is of none, stands for the first;
            # both losses in every step, so that the host need not look which one it is
            early = batch.get("epoch", torch.zeros_like(batch["label"]))[0] < self.apart_epochs
            apart = base(lambda *_: pair.match(f0, w), batch) + base(lambda *_: pair.match(f, known.w), batch)
            loss = torch.where(early, apart + self.both_weight * loss, loss)
            of_truth = chosen == batch["label"][:, None]
            truth = batch["label"][:, None].expand_as(chosen)
            each = F.cross_entropy(exact(voice(found)).flatten(0, 1), truth.flatten(), reduction="none")
            said = each.where(of_truth.flatten(), 0.0).sum()
            return loss + self.says_weight * said / of_truth.sum().clamp(min=1)

        return loss_fn


def aware_of(model: TaskModel) -> ClassAware:
    """The prompts of classes in a model. Raises `NotApplicable` where its method has none."""
    found = [module for module in model.modules() if isinstance(module, ClassAware)]
    if not found:
        raise NotApplicable("objective dpt reads the prompts of classes of method=dpt, which brings it along")
    return found[0]
