"""Parts of people: a segmentation whose classes are the same everywhere, beside the classes of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.foundation.maps import PARTS
from peftbench.tasks.base import TASKS, Targets
from peftbench.tasks.segmentation import Segmentation, SegmentationMeter


@TASKS.add("human_parts")
@dataclass(frozen=True)
class HumanParts(Segmentation):
    """`human_parts`, int64 [batch, height, width]: background and six parts (`foundation.maps.PARTS`), 255 unknown.

    An image without people is unknown as a whole and counts in nothing, as in ASTMT.
    """

    reads: ClassVar[tuple[str, ...]] = ("human_parts",)
    weight: ClassVar[float] = 2.0

    def num_outputs(self, targets: Targets) -> int:
        return len(PARTS)

    def meter(self, targets: Targets) -> SegmentationMeter:
        return SegmentationMeter(PARTS, "human_parts")
