"""The texts of classes, and what they become in the joint space of a reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.text import TextTower
from peftbench.backbones.tokenizers import Tokenizer, rows_of

_MOST_AT_ONCE = 512


class Reader(Protocol):
    """What reads texts: a pair."""

    @property
    def text(self) -> TextTower: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def text_features(self, embedded: Tensor, ends: Tensor) -> Tensor: ...


def spoken(name: str) -> str:
    """A class name as it stands in a prompt."""
    return name.replace("_", " ")


def pieces_of(tokenizer: Tokenizer, names: Sequence[str], template: str) -> list[list[int]]:
    """Every name in the template (`{}` stands for it), as ids without start and end."""
    return [tokenizer.pieces(template.format(spoken(name))) for name in names]


class ClassTexts(nn.Module):
    """Classes by fixed texts: w_c of the one template, or of several the mean over templates of w_ct / |w_ct|.

    `ids`: int64 [templates * classes, length], cut behind the longest text where the tower is causal.
    """

    ids: Tensor
    by_image = False

    def __init__(self, ids: Tensor, num_templates: int) -> None:
        super().__init__()
        self.register_buffer("ids", ids, persistent=False)
        self.num_templates = num_templates

    @classmethod
    def of(cls, reader: Reader, names: Sequence[str], templates: Sequence[str]) -> ClassTexts:
        """Raises `BadInput` for a text that cannot be written or is too long."""
        texts = [text for template in templates for text in pieces_of(reader.tokenizer, names, template)]
        return cls(reader.text.cut(rows_of(reader.text.spec, texts)), len(templates))

    def forward(self, reader: Reader, features: Tensor) -> Tensor:
        each = self.each(reader)
        return each[0] if self.num_templates == 1 else F.normalize(each, dim=-1).mean(dim=0)

    def each(self, reader: Reader) -> Tensor:
        """[templates, classes, joint], not normalised."""
        tower = reader.text
        parts = [reader.text_features(tower.embed(ids), tower.ends(ids)) for ids in self.ids.split(_MOST_AT_ONCE)]
        return torch.cat(parts).unflatten(0, (self.num_templates, -1))
