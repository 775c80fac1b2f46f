"""KgCoOp (Yao et al., CVPR 2023, arXiv:2303.13283): learned texts stay near the texts of hand-written prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.objectives.of_pair import OfClasses, compared, pair_that_reads, texts_of_classes
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("kgcoop")
@dataclass(frozen=True)
class KgCoOp(Objective):
    """CE + weight (1 - mean_c cos(w_c, w0_c)), w0 the texts of the task's templates (section 3).

    The weight is that of the release's script (`scripts/run.sh`); its code alone has 1. With `method=coop` of four
    words it is KgCoOp. The release has hand-written words of its own for DTD ("a photo of a {}, a type of texture.")
    and CoOp's for the other sets, as here for all: `task.template`.
    """

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "arXiv:2303.13283"
    of_pairs: ClassVar[bool] = True

    weight: float = option(8.0, ge=0)

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        return OfClasses(texts_of_classes(pair_that_reads(self.name, backbone)))

    def install(self, model: TaskModel, own: nn.Module) -> None:
        model.add_module("kgcoop", own)

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        pair = pair_that_reads(self.name, model.backbone)
        known = model.get_submodule("kgcoop")
        assert isinstance(known, OfClasses)

        def loss_fn(_: Model, batch: Batch) -> Tensor:
            w, logits = compared(pair, batch["image"], model.num_trained)[1:]
            kept = F.cosine_similarity(exact(w), known.w[: model.num_trained], dim=-1).mean()
            return base(lambda *_: logits, batch) + self.weight * (1 - kept)

        return loss_fn
