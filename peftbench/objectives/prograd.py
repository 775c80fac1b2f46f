"""ProGrad (Zhu et al., ICCV 2023, arXiv:2205.14865): no step against what the untouched pair knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.pair import Pair
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.objectives.base import OBJECTIVES
from peftbench.objectives.of_pair import BesideUntouched, Untouched, compared, texts_of_classes
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


@OBJECTIVES.add("prograd")
@dataclass(frozen=True)
class ProGrad(BesideUntouched):
    """Gradient of CE without its part against that of the general loss (section 3).

    Of every trained tensor: g_d of cross-entropy, g_g of T^2 mean_b sum_c -softmax(z0 / T) log softmax(z / T), z0 the
    logits of hand-written prompts. Where <g_d, g_g> < 0: g_d - `share` <g_d, u> u with u = g_g / |g_g|; else g_d. The
    general loss is never descended. Several micro-batches of a step are turned one by one. Hand-written prompts are the
    task's (`task.template`), by default CoOp's; the release has five of its own ("a type of pet, a photo of a {}.").
    """

    version: ClassVar[int] = 2
    paper: ClassVar[str] = "arXiv:2205.14865"
    temperature: float = option(1.0, gt=0)
    share: float = option(1.0, ge=0)

    def untouched(self, pair: Pair) -> Untouched:
        return Untouched(texts_of_classes(pair), pair)

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        pair, untouched = self.both(model)

        def loss_fn(_: Model, batch: Batch) -> Tensor:
            logits = compared(pair, batch["image"], model.num_trained)[2]
            w0 = untouched.w[: model.num_trained]
            known = exact(pair.match(untouched.features(batch["image"]), w0)).detach()
            log_p = F.log_softmax(exact(logits) / self.temperature, dim=1)
            general = -(F.softmax(known / self.temperature, dim=1) * log_p).sum(dim=1).mean() * self.temperature**2
            loss = base(lambda *_: logits, batch)
            tensors = [tensor for tensor in model.parameters() if tensor.requires_grad]
            if not loss.requires_grad:
                return loss
            turned = self.turned(gradients(loss, tensors), gradients(general, tensors))
            # its value is the loss, its gradient the turned one
            steered = sum(((t - t.detach()) * g).sum() for t, g in zip(tensors, turned, strict=True))
            return loss.detach() + steered

        return loss_fn

    def turned(self, of_task: Sequence[Tensor], general: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of the task, tensor by tensor, without their part against the general ones."""
        result = []
        for d, g in zip(of_task, general, strict=True):
            unit = g / g.norm().clamp(min=torch.finfo(g.dtype).tiny)
            along = (d * unit).sum()
            result.append(d - self.share * along.clamp(max=0) * unit)
        return result


def gradients(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]
