"""FourierFT (Gao et al., ICML 2024, arXiv:2405.03003): an update with few frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.spec import option
from peftbench.interventions import SparseChange
from peftbench.methods.base import METHODS
from peftbench.methods.targets import TARGETS, Matrix, Rewriting, random_places


class Spectrum(SparseChange):
    """W -> W + scale * Re(IDFT2(S)); the inverse transform divides by the number of entries."""

    def transform(self, dense: Tensor) -> Tensor:
        return torch.fft.ifft2(dense).real


@METHODS.add("fourierft")
@dataclass(frozen=True)
class FourierFT(Rewriting):
    """W' = W + scale * Re(IDFT2(S)), S zero but for n = `num_coefficients` trained numbers.

    Their places are random, one draw from `places_seed` for all matrices of one shape. `start: normal`, N(0, 1), is the
    paper's and changes the function; with `zero` it is unchanged. Number, scale and matrices are those of the paper's
    runs with ViT, where the spectrum decays as well (`optim.decay_vectors=true`). There x is multiplied by the change
    and not by its transpose, so its spectra fit here with both axes exchanged. Folds exactly. n parameters for each
    matrix, or all of its entries where it has fewer.
    """

    paper: ClassVar[str] = "arXiv:2405.03003"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_coefficients"

    num_coefficients: int = option(3000, ge=1)
    scale: float = option(300.0, gt=0)
    start: str = option("normal", choices=("normal", "zero"))
    places_seed: int = option(777, ge=0)
    targets: list[str] = option(["q", "v"], choices=TARGETS)

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        number = self.size(matrix.in_dim, matrix.out_dim)
        places = random_places(matrix, number, torch.Generator().manual_seed(self.places_seed))
        values = torch.randn(number) if self.start == "normal" else torch.zeros(number)
        return Spectrum(matrix.weight.shape, places, values, self.scale)

    def size(self, in_dim: int, out_dim: int) -> int:
        return min(self.num_coefficients, in_dim * out_dim)

    def inert(self, backbone: Backbone) -> dict[str, Tensor]:
        """Frequencies that are constant over the outputs of queries or keys whose norm takes their mean out."""
        names, found = {id(tensor): name for name, tensor in backbone.trainable}, {}
        for site in backbone.sites("attn.qkv"):
            for number, norm in (("0", "q_norm"), ("1", "k_norm")):
                changes = getattr(site.module, "changes", {})
                if number in changes and isinstance(getattr(site.parent, norm, None), nn.LayerNorm):
                    constant = changes[number].places < site.shape.in_dim
                    if constant.any():
                        found[names[id(changes[number].values)]] = constant
        return found
