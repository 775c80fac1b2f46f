"""SAM-PARSER (Peng et al., AAAI 2024, arXiv:2308.14604): the singular values of frozen matrices train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention, LinearDelta
from peftbench.methods.base import METHODS, Method

LINEAR = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
ROLES = LINEAR | {"neck": "neck"}


class Coefficients(nn.Module):
    """x -> U diag(d) V^T x, with U [out, k] and V [in, k] the singular vectors of `weight` [out, in], k = min(in, out).

    W = U diag(s) V^T, so this moves the singular values from s to s + d; d starts at zero. U and V are found again from
    the frozen weights and need not be saved.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        left, _, right = torch.linalg.svd(weight.detach(), full_matrices=False)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)
        self.moves = nn.Parameter(torch.zeros(len(right)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight())

    def weight(self) -> Tensor:
        """The matrix [out, in] that this adds to the frozen one."""
        return (self.left * self.moves) @ self.right


class ConvCoefficients(Intervention):
    """A convolution whose kernel [out, in, rows, columns], read as a matrix [out, in * rows * columns], is moved."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        if not isinstance(base, nn.Conv2d) or base.groups != 1:
            raise NotApplicable(f"sam_parser decomposes whole convolutions of a neck, not a {type(base).__name__}")
        self.coefficients = Coefficients(base.weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        base: Any = self.base
        moved = F.conv2d(x, self._kernel(), None, base.stride, base.padding, base.dilation)
        return y + moved.to(y.dtype)

    def folded(self) -> nn.Module:
        plain: Any = copy.deepcopy(self.base)
        plain.weight += self._kernel()
        folded: nn.Module = plain
        return folded

    def _kernel(self) -> Tensor:
        base: Any = self.base
        return self.coefficients.weight().view_as(base.weight)


@METHODS.add("sam_parser")
@dataclass(frozen=True)
class SAMParser(Method):
    """W = U diag(s) V^T with U and V frozen: only the coefficients s train, one for each singular value.

    They are trained as offsets to the pretrained ones, so weight decay would pull to these. Folds exactly into W. The
    sum of min(in, out) over the maps, 4 D L parameters on a plain ViT, where the fused qkv is one matrix.

    `targets=[neck]` on a SAM encoder is the paper's own setting: the two convolutions of the neck, 512 parameters on
    every released size. The released code trains the neck as a whole by mistake (919,040), which its text does not say.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2308.14604"
    mergeable: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Made for segmentation with SAM, where it tunes the encoder's neck (targets=[neck]); by default here the "
        "linear maps of all blocks."
    )

    targets: list[str] = option(list(LINEAR), choices=tuple(ROLES))

    def problems(self) -> Sequence[str]:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            return [f"method.targets must name each target once and at least one, got {self.targets}"]
        return ()

    @property
    def roles(self) -> list[str]:
        return [ROLES[target] for target in self.targets]

    def attach(self, backbone: Backbone) -> None:
        sites = [site for site in backbone.all_sites if site.shape.role in self.roles]
        linear = [site for site in sites if site.shape.role != "neck"]
        if not sites or not all(isinstance(site.module, nn.Linear) for site in linear):
            raise NotApplicable(f"{self.name} decomposes linear maps; {backbone.shape.family} has none at its targets")
        for site in sites:
            if site.shape.role == "neck":
                site.wrap(ConvCoefficients)
                continue
            coefficients = Coefficients(site.module.get_parameter("weight"))
            site.wrap(partial(LinearDelta, deltas={0: coefficients}))

    def expected_params(self, shape: BackboneShape) -> int:
        return sum(min(site.in_dim, site.out_dim) for site in shape.at(*self.roles))
