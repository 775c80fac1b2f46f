"""Random codes: drawn around a mean in training, the mean itself in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from peftbench.foundation.exact import exact
from peftbench.interventions.heard import Heard


class RandomCode(Heard):
    """Base of modules that compute with a code z ~ N(mean, exp(log_variance)).

    They say how far its distribution is from N(0, 1): `divergence`.
    """

    def drawn(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """A code of the shape of both; in training each entry has a draw of its own."""
        if self.speaks:
            self.say(divergence(exact(mean), exact(log_variance)))
        if not self.training:
            return mean
        return mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), the mean over all entries."""
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
