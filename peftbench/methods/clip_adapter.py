"""CLIP-Adapter (Gao et al., IJCV 2023, arXiv:2110.04544): a bottleneck behind the image tower, mixed with its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.pair import Pair
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.of_pair import OfPair
from peftbench.methods.pair_features import pair_shape


@METHODS.add("clip_adapter")
@dataclass(frozen=True)
class CLIPAdapter(OfPair):
    """f' = ratio A(f) + (1 - ratio) f with A(f) = ReLU(W2 ReLU(W1 f)), W1 [E / reduction, E], no biases (equation 5).

    The released form (gaopengcuhk/CLIP-Adapter): the image side alone, on features that are not normalised, the second
    ReLU included. The texts of the classes stay fixed. 2 E floor(E / reduction) parameters.
    """

    family: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2110.04544"
    identity_at_init: ClassVar[bool] = False

    # the share of the adapted feature; 0 is the pair itself
    ratio: float = option(0.2, ge=0, le=1)
    reduction: int = option(4, ge=1)

    def attach_pair(self, pair: Pair) -> None:
        width = pair.feature_dim
        if self.reduction > width:
            raise NotApplicable(f"method.reduction={self.reduction} leaves nothing of the {width} joint features here")
        pair.image_projection = nn.Sequential(
            pair.image_projection, FeatureAdapter(width, width // self.reduction, self.ratio)
        )

    def expected_params(self, shape: BackboneShape) -> int:
        width = pair_shape(self.name, shape).joint
        return 2 * width * (width // self.reduction)


class FeatureAdapter(nn.Module):
    """Features [batch, width] -> the same shape: ratio * ReLU(W2 ReLU(W1 f)) + (1 - ratio) * f."""

    def __init__(self, width: int, hidden: int, ratio: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.ratio = ratio

    def forward(self, features: Tensor) -> Tensor:
        adapted = self.up(self.down(features).relu()).relu()
        return self.ratio * adapted + (1 - self.ratio) * features
