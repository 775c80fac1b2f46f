"""From maps of one size to a pyramid: what decoders made for stages read of a plain transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from peftbench.foundation.errors import ConfigError

_FOUR = "set task.num_maps=4, on a backbone of four blocks or more"


class FlatPyramid(nn.Module):
    """Four maps of one size -> at four times, twice, once and half of it (BEiT's, mmsegmentation's Feature2Pyramid).

    Twice four: transposed convolution 2 x 2, batch norm, gelu, transposed convolution 2 x 2; twice: one transposed
    convolution; half: maximum over 2 x 2. With D channels 3 (4 D^2 + D) + 2 D parameters. Three maps have no first
    one: 4 D^2 + D.
    """

    def __init__(self, widths: Sequence[int], levels: int = 4, advice: str = _FOUR) -> None:
        super().__init__()
        if len(widths) != levels:
            words = f"a pyramid is made of {levels} maps of a plain transformer, got {len(widths)}"
            raise ConfigError([f"{words}; {advice}"])
        steps = zip(_STEPS[-levels:], widths, strict=True)
        self.steps = nn.ModuleList(step(width) for step, width in steps)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [step(m) for step, m in zip(self.steps, maps, strict=True)]


def _doubled(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, 2, stride=2)


def _twice_doubled(width: int) -> nn.Module:
    return nn.Sequential(_doubled(width), nn.BatchNorm2d(width), nn.GELU(), _doubled(width))


_STEPS: tuple[Callable[[int], nn.Module], ...] = (
    _twice_doubled,
    _doubled,
    lambda width: nn.Identity(),
    lambda width: nn.MaxPool2d(2),
)
