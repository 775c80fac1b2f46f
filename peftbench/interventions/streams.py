"""A network through which a second stream of tokens runs beside the image's."""

from __future__ import annotations

from torch import nn

from peftbench.interventions.base import Intervention


class LastOfTwo(Intervention):
    """A block on two streams that, where it is the last, gives the image's tokens [batch, length, width].

    With `both` the other's stand behind them in training, as further samples: [2 batch, length, width].
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.both = False
