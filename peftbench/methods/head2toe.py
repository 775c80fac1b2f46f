"""Head2Toe (Evci et al., ICML 2022, arXiv:2201.03529): a head on features chosen from all layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, Readout
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention
from peftbench.methods.base import METHODS, Method
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.vpt import token_sequence

# of Adam in Keras
_EPS = 1e-7


class EveryLayer(Intervention):
    """A timm model whose features are what its layers give, in order, and last its own output tokens.

    Tokens [batch, length, width] each: what the first block is given; of every block the normed input of attention,
    attention's output, the hidden units of the MLP behind their activation, the MLP's output; behind the final norm.
    """

    def __init__(self, base: nn.Module, backbone: Backbone) -> None:
        super().__init__(base)
        self._sites = [backbone.sites(role) for role in ("block", "norm.1", "attn", "mlp.fc2", "mlp")]

    def forward_features(self, images: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []

        def given(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.append(arguments[0])

        def gives(module: nn.Module, arguments: Any, output: Tensor) -> None:
            seen.append(output)

        blocks, norms, attentions, hidden, mlps = ([site.module for site in sites] for sites in self._sites)
        with ExitStack() as hooks:
            for module in (blocks[0], *hidden):
                hooks.callback(module.register_forward_pre_hook(given).remove)
            for module in (*norms, *attentions, *mlps):
                hooks.callback(module.register_forward_hook(gives).remove)
            tokens = self.base.forward_features(images)  # type: ignore[operator]
        return [*seen, tokens]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.base.set_grad_checkpointing(enable)  # type: ignore[operator]


class Chosen(nn.Module):
    """What the layers gave -> [batch, features]: pooled, `kept` of it, what is left of a layer scaled to length 1.

    Of a sequence the mean, or as many means of equal windows as bring it near `target_size` numbers; of the network
    itself its own pooled features. Where `kept` is None all of it stays.
    """

    no_maps = "a head on features of all layers reads no map of them; choose another method"
    kept: Tensor

    def __init__(self, readout: nn.Module, target_size: int, kept: Tensor | None = None) -> None:
        super().__init__()
        self.readout, self.target_size = readout, target_size
        self.register_buffer("kept", kept, persistent=False)
        self._found: tuple[tuple[list[int], int, int], list[Tensor]] | None = None

    def forward(self, seen: Sequence[Tensor]) -> Tensor:
        parts = [*(self._pooled(tokens) for tokens in seen), self.readout(seen[-1])]
        if self.kept is not None:
            columns = self._columns([part.shape[1] for part in parts])
            parts = [part[:, own] for part, own in zip(parts, columns, strict=True)]
        return torch.cat([F.normalize(exact(part), dim=1) for part in parts], dim=1)

    def _columns(self, widths: list[int]) -> list[Tensor]:
        """What is kept of each layer; found once, as the host has to wait for how many there are."""
        asked = widths, id(self.kept), self.kept._version
        if self._found is None or self._found[0] != asked:
            # for training as well, whoever asks first
            with torch.inference_mode(False):
                ends = torch.tensor(widths, device=self.kept.device).cumsum(dim=0)
                owners = torch.bucketize(self.kept, ends, right=True)
                starts = [0, *ends.tolist()]
                own = [self.kept[owners == number] - starts[number] for number in range(len(widths))]
            self._found = asked, own
        return self._found[1]

    def _pooled(self, tokens: Tensor) -> Tensor:
        width = tokens.shape[2]
        if width >= self.target_size:
            return tokens.mean(dim=1)
        window = max(int(tokens.shape[1] / (self.target_size / width)), 1)
        return F.avg_pool1d(tokens.transpose(1, 2), window).transpose(1, 2).flatten(1)


@METHODS.add("head2toe")
@dataclass(frozen=True)
class Head2Toe(Method):
    """A linear head on the share `fraction` of all features that a first head under group lasso weighs most.

    The first head sees the features of every layer, each layer scaled to length 1: cross-entropy and `lasso` times the
    sum over features of the length of their weights, `steps` steps of Adam from `rate` down a cosine, in batches of
    `batch_size`, drawn once. A feature's score is the sum of its squared weights. Layers are pooled to one mean, or to
    `target_size` numbers. Trains nothing but the head, which the cell's recipe trains on what was chosen. The paper
    takes fraction, target size, lasso, rate and steps for each task by five folds of its 1,000 images. It names the
    layers of its own ImageNet model alone; which tensors are meant is read from these names.
    """

    family: ClassVar[str] = "side"
    paper: ClassVar[str] = "arXiv:2201.03529"
    version: ClassVar[int] = 2
    faithfulness: ClassVar[str] = "details not published"
    pools_itself: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True

    fraction: float = option(0.1, gt=0, le=1)
    target_size: int = option(0, ge=0)
    lasso: float = option(1e-4, ge=0)
    rate: float = option(0.1, gt=0)
    steps: int = option(500, ge=1)
    batch_size: int = option(128, ge=1)

    def observe(self, evidence: Evidence) -> Findings:
        """`kept`: places of the chosen features among all, ascending."""
        backbone = copy.deepcopy(evidence.backbone).eval()
        self._watch(backbone, None)
        features, labels = [], []
        for batch in evidence.images(self.batch_size):
            with torch.no_grad():
                features.append(backbone(*(batch[name] for name in backbone.inputs)))
            labels.append(batch["label"])
        scores = self.scores(torch.cat(features), torch.cat(labels), evidence.num_classes)
        number = max(int(len(scores) * self.fraction), 1)
        return {"kept": scores.topk(number).indices.sort().values.to(torch.int32).cpu()}

    def scores(self, features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """How much the first head weighs each of the features [images, features]."""
        bound = math.sqrt(6 / (features.shape[1] + num_classes))
        drawn = torch.empty(features.shape[1], num_classes).uniform_(-bound, bound)
        weight = drawn.to(features).requires_grad_()
        bias = torch.zeros_like(weight[0], requires_grad=True)
        adam = torch.optim.Adam([weight, bias], lr=self.rate, eps=_EPS)
        # as released: the same batches in every epoch, and a smaller one weighs as much less
        batches = torch.randperm(len(features)).to(features.device).split(self.batch_size)
        for step in range(self.steps):
            batch = batches[step % len(batches)]
            adam.param_groups[0]["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            adam.zero_grad()
            loss = F.cross_entropy(features[batch] @ weight + bias, labels[batch])
            loss = loss + self.lasso * weight.norm(dim=1).sum()
            (loss * (len(batch) / self.batch_size)).backward()
            adam.step()
        return weight.detach().square().sum(dim=1)

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        self._watch(backbone, findings["kept"].long().to(backbone.device))
        backbone.feature_dim = len(findings["kept"])

    def _watch(self, backbone: Backbone, kept: Tensor | None) -> None:
        token_sequence(self.name, backbone)
        if type(backbone.readout) is not Readout:
            raise NotApplicable(f"{self.name} pools the layers itself; something else reads this network")
        net = backbone.net
        backbone.net = EveryLayer(net, backbone)
        backbone.readout = Chosen(backbone.readout, self.target_size, kept)

    def expected_params(self, shape: BackboneShape) -> int:
        return 0
