"""A test at several scales, mirrored or not: one model looks at a picture several times, and the looks are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.tasks.decoders import resized
from peftbench.tasks.dense import MapModel, MapTask


class SeveralLooks(nn.Module):
    """Images [batch, 3, height, width] -> outputs of the task, the mean over all sizes and directions.

    Each look resizes the images bilinearly by one of `scales`; what is smaller than the backbone's input is filled up
    with the mean colour below and to the right, what is larger is gone over by windows. Scores are resized to the image
    first and averaged as the task says (`MapTask.averaged`): classes as probabilities, as in mmsegmentation.
    """

    def __init__(self, model: MapModel, task: MapTask, scales: Sequence[float], mirrored: bool) -> None:
        super().__init__()
        self.model, self.task = model, task
        self.scales, self.directions = tuple(scales), (False, True) if mirrored else (False,)

    def forward(self, *inputs: Tensor) -> Any:
        sums: dict[str, Tensor] = {}
        for scale in self.scales:
            seen = [self._at(images, scale) for images in inputs]
            for mirrored in self.directions:
                outputs = self.model(*(images.flip(-1) if mirrored else images for images in seen))
                for name, scores in _named(outputs).items():
                    look = self._part(name).averaged(self._back(scores, inputs[0], scale, mirrored), scale, mirrored)
                    sums[name] = sums[name] + look if name in sums else look
        count = len(self.scales) * len(self.directions)
        means = {name: self._part(name).scores_of(total / count) for name, total in sums.items()}
        return means.get("", means)

    def _at(self, images: Tensor, scale: float) -> Tensor:
        size = [max(round(side * scale), 1) for side in images.shape[-2:]]
        found = resized(images, size)
        below, right = (max(self.model.window - side, 0) for side in size)
        return F.pad(found, (0, right, 0, below)) if below or right else found

    def _back(self, scores: Tensor, images: Tensor, scale: float, mirrored: bool) -> Tensor:
        """At the size and in the direction of the images, without what was filled up."""
        size = [max(round(side * scale), 1) for side in images.shape[-2:]]
        # mirrored with its filling, a picture stands at the right
        scores = (scores.flip(-1) if mirrored else scores)[..., : size[0], : size[1]]
        return resized(scores.float(), images.shape[-2:])

    def _part(self, name: str) -> MapTask:
        return self.task.parts[name] if name else self.task  # type: ignore[attr-defined]


def _named(outputs: Any) -> dict[str, Tensor]:
    return outputs if isinstance(outputs, dict) else {"": outputs}
