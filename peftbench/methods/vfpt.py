"""VFPT (Zeng et al., NeurIPS 2024, arXiv:2411.01327): VPT with some prompts seen through a Fourier transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import InsertTokens
from peftbench.methods.base import METHODS, Method
from peftbench.methods.vpt import token_sequence

# axis of the transform: the tokens, their channels
AXES = {"all": (-2, -1), "tokens": (-2,), "channels": (-1,)}


class FourierTokens(InsertTokens):
    """Learnable tokens of which the first `num_fourier` enter as the real part of their transform, behind dropout.

    The transform is not normalised: over n tokens and c channels it makes them sqrt(n c / 2) times as large.
    """

    def __init__(self, base: nn.Module, num_fourier: int, axes: tuple[int, ...], **arguments: Any) -> None:
        super().__init__(base, **arguments)
        self.num_fourier, self.axes = num_fourier, axes

    def inserted(self, batch: int) -> Tensor:
        tokens = super().inserted(batch)
        seen, plain = tokens[:, : self.num_fourier], tokens[:, self.num_fourier :]
        return torch.cat([torch.fft.fftn(seen, dim=self.axes).real, plain], dim=1)


@METHODS.add("vfpt")
@dataclass(frozen=True)
class VFPT(Method):
    """VPT-deep whose first floor(f p) prompts of each block are replaced by Re(FFT(FFT(P))), over tokens and channels.

    f = `fourier_share`, 0.5 in the released defaults and chosen for each task in its runs; `axes` restricts the
    transform. L p D parameters, as VPT. The released `random` places of the transformed prompts are drawn anew in every
    pass, tests included, and are left out.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2411.01327"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    fourier_share: float = option(0.5, gt=0, le=1)
    axes: str = option("all", choices=tuple(AXES))
    dropout: float = option(0.1, ge=0, lt=1)

    def problems(self) -> list[str]:
        if math.floor(self.num_tokens * self.fourier_share):
            return []
        return [f"method.fourier_share = {self.fourier_share} of {self.num_tokens} prompts is none; raise one of them"]

    def attach(self, backbone: Backbone) -> None:
        shape = backbone.shape
        for site in token_sequence(self.name, backbone):
            site.wrap(
                lambda block: FourierTokens(
                    block,
                    math.floor(self.num_tokens * self.fourier_share),
                    AXES[self.axes],
                    num_tokens=self.num_tokens,
                    width=shape.width,
                    patch_size=shape.patch_size,
                    num_prefix=shape.num_prefix_tokens,
                    dropout=self.dropout,
                    strip=True,
                )
            )

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * self.num_tokens * shape.width

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """The first channel of transformed prompts, a constant behind it, which the block's norm takes out."""
        if self.axes == "tokens":
            return {}
        names, found = {id(tensor): name for name, tensor in backbone.trainable}, {}
        for block, norm in zip(backbone.sites("block"), backbone.sites("norm.1"), strict=True):
            if isinstance(norm.module, nn.LayerNorm):
                tokens = block.module.get_parameter("tokens")
                first = torch.zeros_like(tokens, dtype=torch.bool)
                first[:, : math.floor(self.num_tokens * self.fourier_share), 0] = True
                found[names[id(tokens)]] = first
        return found
