"""GIST (Ruan et al., arXiv:2312.07255): a token that gathers what the method learns, and a talk between two logits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, Readout
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn, Model


class GistToken(nn.Module):
    """Puts one learnable token, U(-0.5, 0.5) at the start, behind the `num_prefix` first tokens [batch, length, width].

    It is no wrapper of a method: merging leaves it in place, since the other tokens attend to it.
    """

    def __init__(self, base: nn.Module, width: int, num_prefix: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.token = nn.Parameter(torch.empty(1, 1, width).uniform_(-0.5, 0.5))
        self.dropout = nn.Dropout(dropout)
        self.num_prefix = num_prefix

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x)
        token = self.dropout(self.token).expand(x.shape[0], -1, -1).to(x.dtype)
        return torch.cat([x[:, : self.num_prefix], token, x[:, self.num_prefix :]], dim=1)


class GistReadout(Readout):
    """Pools as the backbone does, without the gist token; in training the token's own features follow.

    tokens: [batch, prefix + 1 + patches, width] -> [batch, width] in evaluation, [2 batch, width] in training.
    """

    def __init__(self, net: nn.Module, num_prefix: int) -> None:
        super().__init__(net)
        self.num_prefix = num_prefix

    def forward(self, tokens: Tensor) -> Tensor:
        prefix, gist, patches = tokens.tensor_split((self.num_prefix, self.num_prefix + 1), dim=1)
        features = super().forward(torch.cat([prefix, patches], dim=1))
        return torch.cat([features, self.net.fc_norm(gist[:, 0])]) if self.training else features


@OBJECTIVES.add("gist")
@dataclass(frozen=True)
class GIST(Objective):
    """CE(c, y) + gist_weight CE(g, y) + interaction_weight [KL(p_c, p_g) + KL(p_g, p_c)], p = softmax(. / T).

    c are the classifier's logits, g those of the same head on the gist token, which enters behind the class token
    ahead of the first block. Gradients of both divergences reach both sides. Predictions are c, at the end as in the
    released code, from which init, dropout, weights and T are. D parameters. To the method the token is one more
    prefix token. The paper pools the class token; averaging backbones leave the gist token out of their mean.
    """

    paper: ClassVar[str] = "arXiv:2312.07255"

    gist_weight: float = option(0.5, ge=0)
    interaction_weight: float = option(0.75, ge=0)
    temperature: float = option(3.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        shape = backbone.shape
        if shape.family != "vit":
            raise NotApplicable(f"{self.name} adds a token to one sequence; {shape.family} has windows or maps")
        net: Any = backbone.net
        # Eva's patch_drop is asked for indices as well; its pos_drop stands in the same place
        slot = "pos_drop" if getattr(net, "patch_drop", None) is None else "patch_drop"
        token = GistToken(getattr(net, slot), shape.width, shape.num_prefix_tokens, self.dropout)
        # the network stays frozen for methods that look at it before they attach
        token.requires_grad_(False)
        setattr(net, slot, token)
        backbone.shape = dataclasses.replace(
            shape, num_prefix_tokens=shape.num_prefix_tokens + 1, num_parameters=shape.num_parameters + shape.width
        )
        return token

    def install(self, model: TaskModel, own: nn.Module) -> None:
        backbone = model.backbone
        if type(backbone.readout) is not Readout:
            raise NotApplicable(
                f"{self.name} reads its token where the backbone pools; this method makes its features another way"
            )
        own.requires_grad_(True)
        if not feels(backbone, own):
            raise NotApplicable(
                f"{self.name} trains a token ahead of the first block; this method lets no gradient there"
            )
        backbone.readout = GistReadout(backbone.net, backbone.shape.num_prefix_tokens - 1)

    def expected_params(self, shape: BackboneShape, num_classes: int) -> int:
        return shape.width

    def loss_fn(self, model: TaskModel, base: LossFn) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            both = exact(model(batch["image"]))
            c, g = both.chunk(2)
            log_c, log_g = (F.log_softmax(logits / self.temperature, dim=1) for logits in (c, g))
            talk = divergence(log_c, log_g) + divergence(log_g, log_c)
            on_classes, on_gist = base(lambda _: c, batch), base(lambda _: g, batch)
            return on_classes + self.gist_weight * on_gist + self.interaction_weight * talk

        return loss_fn


def feels(backbone: Backbone, token: nn.Module) -> bool:
    """Whether the features of an image send a gradient to the token."""
    training = backbone.training
    with torch.enable_grad():
        total = backbone.eval()(torch.zeros(1, *backbone.sample_shape, device=backbone.device)).sum()
    backbone.train(training)
    (parameter,) = token.parameters()
    return total.requires_grad and torch.autograd.grad(total, parameter, allow_unused=True)[0] is not None


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p, q) = sum p log(p / q), mean over the batch, of log-probabilities [batch, classes]."""
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
