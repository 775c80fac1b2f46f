"""From maps of one size to a pyramid: what decoders made for stages read of a plain transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from peftbench.foundation.errors import ConfigError


class FlatPyramid(nn.Module):
    """Four maps of one size -> at four times, twice, once and half of it (BEiT's, mmsegmentation's Feature2Pyramid).

    Twice four: transposed convolution 2 x 2, batch norm, gelu, transposed convolution 2 x 2; twice: one transposed
    convolution; half: maximum over 2 x 2. With D channels 3 (4 D^2 + D) + 2 D parameters.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != 4:
            words = f"decoder upernet makes a pyramid of four maps of a plain transformer, got {len(widths)}"
            raise ConfigError([f"{words}; set task.num_maps=4, on a backbone of four blocks or more"])
        first, second, *_ = widths
        self.steps = nn.ModuleList(
            [
                nn.Sequential(_doubled(first), nn.BatchNorm2d(first), nn.GELU(), _doubled(first)),
                _doubled(second),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [step(m) for step, m in zip(self.steps, maps, strict=True)]


def _doubled(width: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(width, width, 2, stride=2)
