"""The few ways in which methods change a frozen network. Each keeps what it wraps as `.base`."""

from peftbench.interventions.base import Intervention, fold_all
from peftbench.interventions.block import BlockTaps, Tap, tap_block
from peftbench.interventions.linear import LinearDelta, LowRank
from peftbench.interventions.scale_shift import ScaleShift
from peftbench.interventions.sequential import Bottleneck
from peftbench.interventions.tokens import InsertTokens, StripTokens

__all__ = [
    "BlockTaps",
    "Bottleneck",
    "InsertTokens",
    "Intervention",
    "LinearDelta",
    "LowRank",
    "ScaleShift",
    "StripTokens",
    "Tap",
    "fold_all",
    "tap_block",
]
