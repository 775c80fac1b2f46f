"""An image tower whose tokens a T5 reads beside a text, to write an answer (VL-T5, Cho et al., ICML 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.t5 import T5Tower
from peftbench.backbones.towers import TwoTowers


class VLT5(TwoTowers):
    """`forward(images)`: features of the image tower [batch, width]. A task joins the two; `prompt` opens each text."""

    text: T5Tower

    def __init__(self, image: Backbone, text: T5Tower) -> None:
        super().__init__(image, text)
        self.prompt = ""
        self.shape = replace(image.shape, num_parameters=sum(parameter.numel() for parameter in self.parameters()))
        self.freeze()

    @property
    def against_capture(self) -> str:
        return "a T5's library builds its masks and searches its words on the host"

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.image(images)
        return features

    def written(self, texts: Sequence[Sequence[str]]) -> Tensor:
        most = max(map(len, texts))
        padded = [[*own, *[""] * (most - len(own))] for own in texts]
        rows = self.text.rows([f"{self.prompt} {text}".strip() for own in padded for text in own])
        return rows.int().unflatten(0, (-1, most))
