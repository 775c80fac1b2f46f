"""GPS (Zhang et al., CVPR 2024, arXiv:2312.10136): the entries of each neuron with the largest gradients train."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, Site, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions import SparseDelta
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import key_third, unread_positions
from peftbench.methods.observation import Batch, Evidence, Findings

LAYERS = ("embed", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "merge", "conv")
# what timm calls layer scales, and a table of relative positions
BY_NAME = ("gamma", "gamma_1", "gamma_2", "relative_position_bias_table")


@METHODS.add("gps")
@dataclass(frozen=True)
class GPS(Method):
    """In each row of each weight matrix the `num_connections` entries whose loss gradient is largest, and all biases.

    The loss is the supervised contrastive one (arXiv:2004.11362) of pooled features, two augmented views of each
    image, so that no untrained head takes part (section 3.2); its gradient is summed with sign over one pass of the
    training set at the pretrained weights. Rows are output neurons; a convolution's are flattened. Matrices: patch
    embedding, qkv, proj, fc1, fc2, and the convolutions and merging steps of hierarchical models. As in the released
    code the biases of these train whole and norms stay frozen. R (K + 1) parameters with R rows. That code goes by
    names, and what has "gamma" or "bias" in it trains whole: layer scales and tables of relative positions as well,
    which stay frozen here unless `by_name` is set. Of networks that it does not have, positions from coordinates and
    SAM's, and class, register and distillation tokens stay frozen with it too. Its code for SAM is another: there
    all of the mask decoder trains.

    That code scores batches of the size it trains with and leaves out a short last one (`whole_batches`;
    `hparams=paper` has both), crops its views from the original pictures by bicubic interpolation, and scores in fp16;
    here views are cut from the prepared images (bilinear) and scored in the network's own type. It has features to
    score for plain ViTs alone; other families follow the same rule.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:2312.10136"
    mergeable: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    size_option: ClassVar[str] = "num_connections"

    num_connections: int = option(1, ge=1)
    temperature: float = option(0.07, gt=0)
    batch_size: int = option(32, ge=2)
    whole_batches: bool = option(False, later=True)
    by_name: bool = option(False, later=True)

    def observe(self, evidence: Evidence) -> Findings:
        """Columns [rows, num_connections] of the chosen entries for each matrix, under the number of its site."""
        backbone = copy.deepcopy(evidence.backbone).train()
        if self.by_name:
            _by_name(backbone)  # ahead of looking
        weights = {number: site.module.get_parameter("weight") for number, site in _matrices(backbone).items()}
        unfreeze(*weights.values())
        for first, second in self._scored(evidence):
            features = backbone(torch.cat([first["image"], second["image"]]))
            contrastive(features, first["label"].repeat(2), self.temperature).backward()
        found = {}
        for number, weight in weights.items():
            assert weight.grad is not None
            order = weight.grad.abs().flatten(1).sort(dim=1, descending=True, stable=True).indices
            found[str(number)] = order[:, : self.num_connections].sort(dim=1).values.to(torch.int32)
        return found

    def _scored(self, evidence: Evidence) -> Iterator[tuple[Batch, Batch]]:
        """The batches whose gradients count; a short last one is left out by `whole_batches`, unless it is the only."""
        for number, views in enumerate(evidence.views(self.batch_size)):
            short = len(views[0]["label"]) < self.batch_size
            if number == 0 or not (short and self.whole_batches):
                yield views

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        for number, site in _matrices(backbone).items():
            columns = findings[str(number)].long()
            places = columns + site.shape.in_dim * torch.arange(len(columns), device=columns.device)[:, None]
            if site.shape.has_bias:
                bias = site.module.bias
                assert isinstance(bias, nn.Parameter)
                unfreeze(bias)
            site.wrap(partial(SparseDelta, entries={"weight": places.flatten()}))
        if self.by_name:
            unfreeze(*_by_name(backbone))

    def expected_params(self, shape: BackboneShape) -> int | None:
        if self.by_name:
            return None  # whether a network has such tensors is not among its numbers
        matrices = [site for site in shape.sites if site.role in LAYERS]
        return sum(site.out_dim * (min(self.num_connections, site.in_dim) + site.has_bias) for site in matrices)

    def inert(self, backbone: Backbone) -> dict[str, slice | Tensor]:
        """The key third of a qkv bias: it shifts all scores of a query equally, which softmax cancels.

        And relative positions of the last block that only tokens ask for which are not pooled.
        """
        return {**key_third(backbone, "bias"), **unread_positions(backbone)}


def _matrices(backbone: Backbone) -> dict[int, Site]:
    return {number: site for number, site in enumerate(backbone.all_sites) if site.shape.role in LAYERS}


def _by_name(backbone: Backbone) -> list[nn.Parameter]:
    """The layer scales of a network and its tables of relative positions; raises `NotApplicable` if it has none."""
    found = [getattr(module, name, None) for module in backbone.net.modules() for name in BY_NAME]
    named = [tensor for tensor in found if isinstance(tensor, nn.Parameter)]
    if not named:
        raise NotApplicable(
            "this network has no layer scales and no tables of relative positions; set method.by_name=false"
        )
    return named


def contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over anchors i of -mean over p of log(exp(z_i z_p / t) / sum over j of exp(z_i z_j / t)).

    z are the features [num, width] scaled to length 1, p the others of i's label, j all others; each label must occur
    twice. Equation 2 of arXiv:2004.11362.
    """
    z = F.normalize(exact(features), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    scores = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    log_share = scores.log_softmax(dim=1).masked_fill(itself, 0.0)
    positive = (labels[:, None] == labels) & ~itself
    return -((log_share * positive).sum(dim=1) / positive.sum(dim=1)).mean()
