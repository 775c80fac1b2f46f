"""SCT (Zhao et al., IJCV 2023, arXiv:2309.08513): a linear map over the channels that matter to the task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.channels import channels_at, channels_last
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, Tap, tap_block
from peftbench.methods.base import METHODS, Method
from peftbench.methods.observation import Evidence, Findings

# images at a time; sums over all of them do not depend on it
BATCH_SIZE = 50


class SalientChannels(nn.Module):
    """x[I] + scale * (W x[I] + b) on the channels I of the last axis; the others pass.

    `stream_scale` weighs the x[I] that passes. W is drawn from a truncated normal of std 0.02, b = 0.
    """

    channels: Tensor

    def __init__(self, channels: Tensor, scale: float, stream_scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(len(channels), len(channels))
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("channels", channels, persistent=False)
        self.scale, self.stream_scale = scale, stream_scale

    def forward(self, x: Tensor) -> Tensor:
        chosen = x.index_select(-1, self.channels)
        added = self.scale * self.linear(chosen)
        if self.stream_scale != 1:
            added = added + (self.stream_scale - 1) * chosen
        return x.index_add(-1, self.channels, added.to(x.dtype))


class ThenChannels(Intervention):
    """`change` applied to the output of a module that has its channels at `channel_dim`."""

    def __init__(self, base: nn.Module, change: SalientChannels, channel_dim: int) -> None:
        super().__init__(base)
        self.change, self.channel_dim = change, channel_dim

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.change(channels_last(self.base(x), self.channel_dim))
        return channels_at(changed, self.channel_dim)


@METHODS.add("sct")
@dataclass(frozen=True)
class SCT(Method):
    """x[I] = x[I] + scale * (W x[I] + b) with the K salient channels I of each block; L (K^2 + K) parameters.

    `place` attn (the default of the released code): on the stream behind attention's residual addition; mlp: on the
    output of the MLP ahead of its own. Salience (class-aware importance score, section 3.2): the training images go
    once through the frozen network; for each class the L2 norm over all its patch tokens, channel by channel, of the
    stream behind attention (for `mlp`: of the block's output), averaged over the classes.

    `share` of the width is K: 1/8 in the paper, 96 channels of ViT-B. The paper's Swin keeps 96 in every stage.
    The released forward pass leaves the per-task scale of its configurations (0.1 to 1) out, as the form "for test
    time": `scale` 1. For six tasks it weighs the stream instead, s x[I] + W x[I] + b: `stream_scale` s.
    """

    family: ClassVar[str] = "adapter"
    paper: ClassVar[str] = "arXiv:2309.08513"
    identity_at_init: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True

    share: float = option(0.125, gt=0, le=1)
    place: str = option("attn", choices=("attn", "mlp"))
    scale: float = option(1.0, gt=0)
    stream_scale: float = option(1.0, gt=0, later=True)

    def num_channels(self, width: int) -> int:
        return max(1, round(self.share * width))

    def observe(self, evidence: Evidence) -> Findings:
        """Ascending channels [num_channels] of each block."""
        backbone = copy.deepcopy(evidence.backbone).eval()
        watched = self._watched(backbone)
        energy = [torch.zeros(evidence.num_classes, site.shape.out_dim, dtype=torch.float64) for site in watched]
        energy = [sums.to(backbone.device) for sums in energy]
        seen = self._listen(watched)
        for batch in evidence.images(BATCH_SIZE):
            with torch.no_grad():
                backbone(batch["image"])
            for site, sums, x in zip(watched, energy, seen, strict=True):
                patches = channels_last(x, site.channel_dim).flatten(1, -2)[:, backbone.shape.num_prefix_tokens :]
                # frames of clips are folded into the batch
                labels = batch["label"].repeat_interleave(len(patches) // len(batch["label"]))
                sums.index_add_(0, labels, patches.square().sum(dim=1).double())
            seen.clear()
        present = energy[0].sum(dim=1) > 0
        scores = [sums[present].sqrt().mean(dim=0) for sums in energy]
        return {str(layer): self._largest(score) for layer, score in enumerate(scores)}

    def _watched(self, backbone: Backbone) -> Sequence[Site]:
        """What is looked at, one place a block. Raises `NotApplicable` where there is no attention to stand behind."""
        if self.place == "attn":
            backbone.sites("attn")
            return backbone.sites("norm.2")
        return backbone.sites("block")

    def _listen(self, watched: Sequence[Site]) -> list[Tensor]:
        """A list that grows by one tensor a block, in order, whenever the network runs."""
        seen: list[Tensor] = []
        for site in watched:
            if self.place == "attn":
                site.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            else:
                site.module.register_forward_hook(lambda _, __, output: seen.append(output))
        return seen

    def _largest(self, score: Tensor) -> Tensor:
        order = score.sort(descending=True, stable=True).indices
        return order[: self.num_channels(len(score))].sort().values

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        self._watched(backbone)
        for site in backbone.sites("block" if self.place == "attn" else "mlp"):
            change = self._change(findings[str(site.layer)].to(backbone.device))
            if self.place == "attn":
                site.wrap(partial(tap_block, taps=[Tap("attn", change, place="stream")]))
            else:
                site.wrap(partial(ThenChannels, change=change, channel_dim=site.channel_dim))

    def _change(self, channels: Tensor) -> SalientChannels:
        return SalientChannels(channels, self.scale, self.stream_scale)

    def expected_params(self, shape: BackboneShape) -> int:
        counts = [self.num_channels(site.out_dim) for site in shape.at("block")]
        return sum(num * num + num for num in counts)

    def summary(self, findings: Findings) -> dict[str, Any]:
        return {"channels": [findings[str(layer)].tolist() for layer in range(len(findings))]}
