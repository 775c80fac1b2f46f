"""An image network on clips: every frame is an image of its own, and their features are averaged.

Frames are folded into the batch, so that sites, shapes of tokens and every method inside are those of images. How many
frames a clip has is a number of the backbone (`shape.frames`), known when a method is attached; a module that mixes
time unfolds by it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, Site, SiteShape
from peftbench.foundation.errors import NotApplicable


def mean_over_frames(x: Tensor, frames: int) -> Tensor:
    """[batch * frames, ...] -> [batch, ...]. Summed in double precision: the order of frames is no matter."""
    wide = x.dtype if x.device.type == "mps" else torch.float64
    return x.unflatten(0, (-1, frames)).mean(dim=1, dtype=wide).to(x.dtype)


class FrameMeanAhead(nn.Module):
    """base(mean over frames of x)."""

    def __init__(self, base: nn.Module, frames: int) -> None:
        super().__init__()
        self.base, self.frames = base, frames

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(mean_over_frames(x, self.frames))
        return y


class MeanOverFrames(nn.Module):
    """features of every frame [batch, frames, width] -> [batch, width]."""

    def forward(self, features: Tensor) -> Tensor:
        return mean_over_frames(features.flatten(0, 1), features.shape[1])


class EachFrame(nn.Module):
    """clips [batch, frames, 3, height, width] -> what a backbone gives of every frame, [batch, frames, width]."""

    backbone: Backbone

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        # A plain reference, not a child: the backbone holds this module.
        object.__setattr__(self, "backbone", backbone)

    def forward(self, clips: Tensor) -> Tensor:
        return Backbone.forward(self.backbone, clips.flatten(0, 1)).unflatten(0, (-1, clips.shape[1]))


class FrameFolded(Backbone):
    """clips [batch, frames, 3, height, width] -> features [batch, feature_dim].

    `norm_then_mean`: features of every frame as of an image, then their mean (AIM, arXiv:2302.03024). `mean_then_norm`:
    the mean is taken ahead of the network's final norm (ST-Adapter, arXiv:2206.13559). `frame_readout` is one of them,
    or `method`: what the method asks for. A method that works on the features of frames wraps the
    site `over_frames`.
    """

    def __init__(self, *arguments: Any, frame_readout: str = "method") -> None:
        super().__init__(*arguments)
        self._frame_readout, self._mean_first = frame_readout, False
        self.each_frame, self.over_frames = EachFrame(self), cast(nn.Module, MeanOverFrames())
        width = self.shape.width
        self._sites += (Site(self, "over_frames", SiteShape("over_frames", -1, width, width, False)),)

    def forward(self, clips: Tensor) -> Tensor:
        self.require_clips(clips)
        features: Tensor
        if self._mean_first:
            features = super().forward(clips.flatten(0, 1))
        else:
            features = self.over_frames(self.each_frame(clips))
        return features

    def read_frames(self, wanted: str) -> None:
        if self._frame_readout != "method":
            wanted = self._frame_readout
        if wanted == "mean_then_norm":
            if not isinstance(self.over_frames, MeanOverFrames):
                raise NotApplicable(
                    "this method works on the features of every frame, which backbone.frame_readout=mean_then_norm "
                    "does not leave; set backbone.frame_readout=method"
                )
            self._mean_first = True
            self.sites("norm.final")[0].wrap(lambda norm: FrameMeanAhead(norm, self.shape.frames))
