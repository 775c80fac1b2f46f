"""Two networks under one roof: an image tower, and one that reads or writes texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, Site


class TwoTowers(Backbone):
    """Each tower is a Backbone of its own, with its own shape, sites and roles, so that a method for one attaches to
    either. To everything that asks for sites or a shape without naming a tower, the two are their image tower.
    """

    image: Backbone
    text: Backbone

    def __init__(self, image: Backbone, text: Backbone) -> None:
        nn.Module.__init__(self)
        self.image, self.text = image, text
        self.weights_read = ""
        self.input_spec = image.input_spec
        self.feature_dim = image.feature_dim
        self.inputs = image.inputs
        self.shape = image.shape

    @property
    def net(self) -> Any:  # type: ignore[override]
        return self.image.net

    @property
    def readout(self) -> nn.Module:  # type: ignore[override]
        return self.image.readout

    @property
    def _sites(self) -> tuple[Site, ...]:  # type: ignore[override]
        return self.image.all_sites

    @property
    def towers(self) -> dict[str, Backbone]:
        return {"image": self.image, "text": self.text}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.image.sample_shape

    def read_frames(self, wanted: str) -> None:
        self.image.read_frames(wanted)

    def written(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Texts of samples as ids: int32 [samples, most texts of one, length], cut behind the longest text.

        A sample with fewer texts than another has empty ones behind its own. Raises `BadInput` for a text that cannot
        be written or is too long.
        """
        raise NotImplementedError
