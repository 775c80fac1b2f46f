"""Decoders: feature maps at several blocks -> one map of scores.

`DECODERS` builds one from (taps of the backbone, number of outputs, width of its convolutions or None for the usual
one); `VERSIONS` is raised when the meaning of one changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.maps import Taps
from peftbench.foundation.two_images import require_two_images
from peftbench.tasks.pyramid import FlatPyramid


class LinearDecoder(nn.Module):
    """Maps side by side, batch norm, one 1 x 1 convolution (DINOv2's linear evaluation, arXiv:2304.07193, app. B).

    [batch, channels_i, h_i, w_i] each -> [batch, outputs, h_0, w_0]. With S channels in all S (2 + outputs) + outputs
    parameters.
    """

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(widths))
        self.classifier = nn.Conv2d(sum(widths), outputs, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.classifier(self.norm(side_by_side(maps)))
        return scores


class FCNDecoder(nn.Module):
    """Maps side by side, `num_convs` times 3 x 3 convolution, batch norm, relu, then dropout and a 1 x 1 convolution.

    FCN (arXiv:1411.4038) as mmsegmentation's auxiliary head: convolutions without bias, dropout 0.1. With S channels in
    all and c inside 9 S c + 2 c + (n - 1) (9 c^2 + 2 c) + (c + 1) outputs parameters.
    """

    def __init__(self, widths: Sequence[int], outputs: int, channels: int = 256, num_convs: int = 1) -> None:
        super().__init__()
        sizes = [sum(widths), *[channels] * num_convs]
        self.convs = nn.Sequential(*(conv(a, b, 3) for a, b in pairwise(sizes)))
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = classifier(channels, outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.classifier(self.dropout(self.convs(side_by_side(maps))))
        return scores


class PUPDecoder(nn.Module):
    """Progressive upsampling of the last map: four times 3 x 3 convolution, batch norm, relu, twice the size.

    SETR-PUP (arXiv:2012.15840, section 3.2) without its auxiliary heads. With D channels in the last map and c inside
    9 D c + 2 c + 3 (9 c^2 + 2 c) + (c + 1) outputs parameters.
    """

    def __init__(self, width: int, outputs: int, channels: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(a, b, 3) for a, b in pairwise([width, *[channels] * 4]))
        self.classifier = classifier(channels, outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[-1]
        for step in self.convs:
            x = F.interpolate(step(x), scale_factor=2, mode="bilinear", align_corners=False)
        scores: Tensor = self.classifier(x)
        return scores


class UPerNetDecoder(nn.Module):
    """UPerNet (arXiv:1807.10221) as in mmsegmentation: pyramid pooling of the coarsest map, a top-down path, fusion.

    Bins 1, 2, 3 and 6; convolutions without bias behind which stand batch norm and relu; no convolution behind the
    pyramid pooling; dropout 0.1 ahead of the 1 x 1 classifier.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, widths: Sequence[int], outputs: int, channels: int = 512) -> None:
        super().__init__()
        *finer, coarsest = widths
        self.pooled = nn.ModuleList(conv(coarsest, channels, 1) for _ in self.bins)
        self.bottleneck = conv(coarsest + len(self.bins) * channels, channels, 3)
        self.laterals = nn.ModuleList(conv(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(conv(channels, channels, 3) for _ in finer)
        self.fusion = conv(len(widths) * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = classifier(channels, outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *finer, coarsest = maps
        require_two_images(self, len(coarsest), "task.decoder=upernet has a batch norm behind the mean of a map")
        size = coarsest.shape[2:]
        pooled = [
            resized(step(pooled_to(coarsest, bins)), size) for bins, step in zip(self.bins, self.pooled, strict=True)
        ]
        above = self.bottleneck(torch.cat([coarsest, *pooled], dim=1))
        path = [above]
        for lateral, finer_map in zip(reversed(self.laterals), reversed(finer), strict=True):
            side = lateral(finer_map)
            above = side + resized(above, side.shape[2:])
            path.append(above)
        path = [*(step(item) for step, item in zip(reversed(self.smooth), path[1:], strict=True)), path[0]]
        # from the finest to the coarsest
        ordered = [*reversed(path[:-1]), path[-1]]
        scores: Tensor = self.classifier(self.dropout(self.fusion(side_by_side(ordered))))
        return scores


class WithAuxiliary(nn.Module):
    """A decoder and, in training alone, a second one beside it: maps -> (scores, scores of the `auxiliary` one).

    The second is `FCNDecoder` on the third map, or on the last of fewer: mmsegmentation's auxiliary head.
    """

    def __init__(self, decoder: nn.Module, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.decoder, self.place = decoder, min(2, len(widths) - 1)
        self.auxiliary = FCNDecoder([widths[self.place]], outputs)

    def forward(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        scores: Tensor = self.decoder(maps)
        return (scores, self.auxiliary([maps[self.place]])) if self.training else scores


class HRNetDecoder(nn.Module):
    """Maps at the first one's size side by side, 1 x 1 convolution to 4 S, batch norm, relu, 1 x 1 convolution.

    The head of MTI-Net (arXiv:2001.06902) and MTLoRA (arXiv:2403.20320, released code), whose maps are first reduced to
    c, 2 c, 4 c, ... channels by 1 x 1 convolutions without bias. With S = c + 2 c + ... the head has 4 S^2 + 12 S +
    4 S outputs + outputs parameters.
    """

    def __init__(self, widths: Sequence[int], outputs: int, channels: int = 18) -> None:
        super().__init__()
        reduced = [channels * 2**number for number in range(len(widths))]
        self.reduce = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(widths, reduced, strict=True))
        inside = sum(reduced)
        self.head = nn.Sequential(
            nn.Conv2d(inside, 4 * inside, 1), nn.BatchNorm2d(4 * inside), nn.ReLU(), nn.Conv2d(4 * inside, outputs, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.head(side_by_side([step(m) for step, m in zip(self.reduce, maps, strict=True)]))
        return scores


def conv(inside: int, outside: int, size: int) -> nn.Sequential:
    """Convolution without bias, batch norm, relu; the size of the map stays.

    Starts normal with variance 2 / (outside size^2), as mmcv's `ConvModule` does (He et al., arXiv:1502.01852, eq. 14).
    """
    layers = nn.Conv2d(inside, outside, size, padding=size // 2, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*layers)


def classifier(inside: int, outputs: int) -> nn.Conv2d:
    """1 x 1 convolution whose weights start normal with deviation 0.01 and biases at 0, as mmsegmentation's do."""
    layer = nn.Conv2d(inside, outputs, 1)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def pooled_to(x: Tensor, bins: int) -> Tensor:
    """Means over `bins` x `bins` fields that cover the map, as adaptive average pooling has them.

    As products: torch has no deterministic backward pass of that pooling on CUDA.
    """
    rows, columns = (_averaging(size, bins, x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _averaging(size: int, bins: int, like: Tensor) -> Tensor:
    """[bins, size]: the mean over each field, from floor(i size / bins) to ceil((i + 1) size / bins)."""
    number = torch.arange(bins, device=like.device)
    start, stop = number * size // bins, ((number + 1) * size + bins - 1) // bins
    place = torch.arange(size, device=like.device)
    inside = (place >= start[:, None]) & (place < stop[:, None])
    return inside.to(like.dtype) / (stop - start)[:, None].to(like.dtype)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[2:] == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """All channels at the first map's size, the others resampled bilinearly."""
    return torch.cat([resized(m, maps[0].shape[2:]) for m in maps], dim=1)


def _upernet(taps: Taps, outputs: int, channels: int | None) -> nn.Module:
    decoder = UPerNetDecoder(taps.widths, outputs, channels or 512)
    return nn.Sequential(FlatPyramid(taps.widths), decoder) if taps.flat else decoder


DECODERS: dict[str, Callable[[Taps, int, int | None], nn.Module]] = {
    "linear": lambda taps, outputs, channels: LinearDecoder(taps.widths, outputs),
    "fcn": lambda taps, outputs, channels: FCNDecoder(taps.widths, outputs, channels or 256),
    "pup": lambda taps, outputs, channels: PUPDecoder(taps.last.widths[0], outputs, channels or 256),
    "upernet": _upernet,
    "hrnet": lambda taps, outputs, channels: HRNetDecoder(taps.widths, outputs, channels or 18),
}
# 2: they start as mmsegmentation's
VERSIONS = {"fcn": 2, "pup": 2, "upernet": 2}
