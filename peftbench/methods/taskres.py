"""TaskRes (Yu et al., CVPR 2023, arXiv:2211.10277): a residual of its own beside the text feature of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import BackboneShape
from peftbench.backbones.pair import Pair
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.of_pair import OfPair
from peftbench.methods.pair_features import pair_of, pair_shape


@METHODS.add("taskres")
@dataclass(frozen=True)
class TaskRes(OfPair):
    """w'_c = w_c + scale R_c with R zero at the start (equation 5); neither tower trains or is run again for texts.

    w_c is the mean over templates of text features that are not normalised (geekyutao/TaskRes); the comparison with
    images normalises w'. C E parameters.
    """

    family: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2211.10277"

    scale: float = option(0.5, gt=0)

    @property
    def bound_to_classes(self) -> bool:
        return True

    def attach_pair(self, pair: Pair) -> None:
        _, texts = pair_of(self.name, pair)
        with torch.no_grad():
            base = texts.each(pair).mean(dim=0)
        pair.classes = ResidualClasses(texts, base, self.scale)

    def expected_params(self, shape: BackboneShape) -> int:
        pair = pair_shape(self.name, shape)
        return pair.num_classes * pair.joint


class ResidualClasses(nn.Module):
    """Class features [classes, joint]: `base`, which those of `texts` were once, + scale * residual."""

    base: Tensor
    by_image = False

    def __init__(self, texts: nn.Module, base: Tensor, scale: float) -> None:
        super().__init__()
        self.texts = texts
        self.register_buffer("base", base, persistent=False)
        self.residual = nn.Parameter(torch.zeros_like(base))
        self.scale = scale

    def forward(self, reader: Pair, features: Tensor) -> Tensor:
        return self.base + self.scale * self.residual
