"""The few ways in which methods change a frozen network. Each keeps what it wraps as `.base`."""

from peftbench.interventions.attention import (
    AttentionHook,
    ExtraKeysValues,
    OwnKeysValues,
    ValueScale,
    hook_attention,
    in_front,
    look_at,
    require_plain,
    split_heads,
)
from peftbench.interventions.base import Intervention, fold_all
from peftbench.interventions.block import BlockTaps, Tap, joins_as_it_is, tap_block
from peftbench.interventions.class_aware import ClassAware, ClassPrompts, PromptedBeside
from peftbench.interventions.context import ImageContext, LearnedContext
from peftbench.interventions.dropped import Dropped
from peftbench.interventions.headed import Headed
from peftbench.interventions.linear import (
    AffineLowRank,
    FixedDown,
    FixedUp,
    FrozenEnds,
    LinearDelta,
    LinearScale,
    LowRank,
    MatrixDelta,
    ParallelAndSequential,
    ShiftedLowRank,
    Thinned,
)
from peftbench.interventions.path_context import PathContext
from peftbench.interventions.placed import AppendTokens, Drawn, Projected, ReplaceTokens, append_ahead
from peftbench.interventions.remade import made_again
from peftbench.interventions.rewritten import Rewritten
from peftbench.interventions.scale_shift import ScaleShift
from peftbench.interventions.sequential import Ahead, Behind, BehindSlices, Beside, Bottleneck
from peftbench.interventions.shared import refer, release, share
from peftbench.interventions.side import MeanPatch, MetaTokens, OnlyToken, SideBlock, Unused, WithImages
from peftbench.interventions.sparse import SparseChange, SparseDelta
from peftbench.interventions.spatial import TokenGrid
from peftbench.interventions.temporal import (
    Added,
    FrameOffsets,
    FrameTransformer,
    TemporalConvAdapter,
    TemporalPass,
    TemporalShift,
)
from peftbench.interventions.tokens import (
    CarriedReadout,
    InsertTokens,
    OwnAttention,
    QueryTokens,
    SparesCarried,
    StripTokens,
    ask_block,
    strip_tokens,
)

__all__ = [
    "Added",
    "AffineLowRank",
    "Ahead",
    "AppendTokens",
    "AttentionHook",
    "Behind",
    "BehindSlices",
    "Beside",
    "BlockTaps",
    "Bottleneck",
    "CarriedReadout",
    "ClassAware",
    "ClassPrompts",
    "Drawn",
    "Dropped",
    "ExtraKeysValues",
    "FixedDown",
    "FixedUp",
    "FrameOffsets",
    "FrameTransformer",
    "FrozenEnds",
    "Headed",
    "ImageContext",
    "InsertTokens",
    "Intervention",
    "LearnedContext",
    "LinearDelta",
    "LinearScale",
    "LowRank",
    "MatrixDelta",
    "MeanPatch",
    "MetaTokens",
    "OnlyToken",
    "OwnAttention",
    "OwnKeysValues",
    "ParallelAndSequential",
    "PathContext",
    "Projected",
    "PromptedBeside",
    "QueryTokens",
    "ReplaceTokens",
    "Rewritten",
    "ScaleShift",
    "ShiftedLowRank",
    "SideBlock",
    "SparesCarried",
    "SparseChange",
    "SparseDelta",
    "StripTokens",
    "Tap",
    "TemporalConvAdapter",
    "TemporalPass",
    "TemporalShift",
    "Thinned",
    "TokenGrid",
    "Unused",
    "ValueScale",
    "WithImages",
    "append_ahead",
    "ask_block",
    "fold_all",
    "hook_attention",
    "in_front",
    "joins_as_it_is",
    "look_at",
    "made_again",
    "refer",
    "release",
    "require_plain",
    "share",
    "split_heads",
    "strip_tokens",
    "tap_block",
]
