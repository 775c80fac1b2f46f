"""Temporal shift (Lin, Gan and Han, ICCV 2019, arXiv:1811.08383) in a frozen transformer: motion without parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import TemporalShift
from peftbench.methods.base import METHODS, Method


@METHODS.add("temporal_shift")
@dataclass(frozen=True)
class TemporalShiftMethod(Method):
    """x = x + attn(shift(n1(x))): one of `parts` of the channels from the frame behind, one from the frame ahead.

    The shift is in the residual branch, as in the paper, whose networks are convolutional; the frames beyond a clip
    are zero. Nothing trains but the head.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:1811.08383"
    identity_at_init: ClassVar[bool] = False
    mixes_time: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "Made for convolutional networks trained as a whole; here ahead of a frozen attention."

    parts: int = option(8, ge=2)

    def attach(self, backbone: Backbone) -> None:
        for site in backbone.sites("norm.1"):
            part = max(site.shape.out_dim // self.parts, 1)
            site.wrap(partial(TemporalShift, frames=backbone.shape.frames, part=part))

    def expected_params(self, shape: BackboneShape) -> int:
        return 0
