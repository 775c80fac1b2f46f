"""A detector on feature maps: pyramid, top-down path and RetinaNet's two heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import Taps, feature_maps
from peftbench.tasks.anchors import PER_PLACE, Detections, anchors_of
from peftbench.tasks.model import TaskModel
from peftbench.tasks.pyramid import FlatPyramid

LEVELS = 3
GROUPS = 32
_FEW = "task=detection needs a backbone of three blocks or more"


class Detector(nn.Module):
    """Maps [batch, channels_i, h_i, w_i] -> what is said of the anchors on each level.

    The maps of a plain transformer become a pyramid of twice, once and half their size, as those of stages are; a
    top-down path (arXiv:1612.03144) gives all `channels` channels; on each level the same two heads of four
    convolutions with group norm speak of classes and of offsets (torchvision's, as of its second RetinaNet). Of stages
    the last three are read, as RetinaNet does; of a pyramid that a method makes, whose every level trains, all are.
    Anchors are `scale` times as large as a cell of their level.
    """

    def __init__(self, taps: Taps, num_classes: int, channels: int | None, scale: float) -> None:
        super().__init__()
        widths = taps.widths[-LEVELS:] if taps.layers else taps.widths
        channels = channels or usual_channels(max(widths))
        self.scale, self.levels = scale, len(widths)
        self.pyramid = FlatPyramid(widths, LEVELS, _FEW) if taps.flat else nn.Identity()
        self.path = FeaturePyramidNetwork(list(widths), channels)
        norm = partial(nn.GroupNorm, min(GROUPS, channels))
        self.heads = RetinaNetHead(channels, PER_PLACE, num_classes, norm_layer=norm)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Detections:
        levels = self.pyramid(list(maps[-self.levels :]))
        smooth = list(self.path(OrderedDict((str(number), level) for number, level in enumerate(levels))).values())
        said = self.heads(smooth)
        grids = [(level.shape[2], level.shape[3]) for level in smooth]
        anchors = anchors_of(grids, size, self.scale, smooth[0].device)
        return Detections(said["cls_logits"], said["bbox_regression"], anchors, size)


def usual_channels(width: int) -> int:
    """256, as RetinaNet has, for maps as wide as a base transformer's; a third of narrower ones, but 64 at least."""
    return min(max(width // 3 // GROUPS * GROUPS, 64), 256)


class DetectionModel(TaskModel):
    """images [batch, 3, height, width] -> `Detections`."""

    def __init__(self, backbone: Backbone, detector: Detector, taps: Taps) -> None:
        super().__init__(backbone, detector)
        self.layers = taps.layers

    def forward(self, *inputs: Tensor) -> Detections:
        height, width = inputs[0].shape[-2:]
        said: Detections = self.head(feature_maps(self.backbone, inputs, self.layers), (height, width))
        return said
