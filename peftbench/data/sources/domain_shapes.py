"""Drawn images of the same classes in three domains, each of them a task: multi-task learning as on Office-Home.

Domains are looks of `named_shapes`: as the embedded pair was pretrained, under sodium lamps, and as a negative. An
image depends on (seed, index) only, and its domain and class follow from the index.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.drawn import BOUNDS
from peftbench.data.raw import RawSplit
from peftbench.data.sources.named_shapes import LOOKS, SEEN, draw, under
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every digest: change it when any pixel changes.
VERSION = 1
DOMAINS = tuple(LOOKS)


@DATASETS.add("domain_shapes")
@dataclass(frozen=True)
class DomainShapes(DatasetSpec):
    """800 / 200 / 1,000 drawn images of three tasks, each with the 16 classes that the embedded pair has seen."""

    seed: int = option(0, ge=0)

    @property
    def label(self) -> str:
        return "domain_shapes"

    @property
    def group(self) -> str:
        return "embedded"

    def revision(self) -> str:
        return f"domain_shapes-v{VERSION}-seed{self.seed}"

    def open(self) -> Source:
        names = SEEN * len(DOMAINS)
        return DomainShapesSource(names, f"synthetic:v{VERSION}", "original", "synthetic:1000", (), self.seed)


@dataclass(frozen=True)
class DomainShapesSource(Source):
    """Draws on demand. Class names come once for each domain."""

    seed: int

    @property
    def class_tasks(self) -> tuple[str, ...]:
        return tuple(domain for domain in DOMAINS for _ in SEEN)

    def split(self, name: str) -> RawSplit:
        return DomainShapesSplit(self.seed, *BOUNDS[name])


class DomainShapesSplit(RawSplit):
    """Images `start` to `stop` of the endless sequence of one seed, the domains in turn, and of each the classes."""

    def __init__(self, seed: int, start: int, stop: int) -> None:
        self.seed, self.start = seed, start
        turns, domains = np.divmod(np.arange(start, stop, dtype=np.int64), len(DOMAINS))
        self.labels = domains * len(SEEN) + turns % len(SEEN)

    def content_digest(self) -> str:
        # the recipe stands for the pixels, as in shapes
        recipe = f"domain_shapes-v{VERSION}:{','.join(DOMAINS)}:{','.join(SEEN)}:{self.seed}:{self.start}:{len(self)}"
        return hashlib.sha256(recipe.encode()).hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        domain, name = divmod(int(self.labels[index]), len(SEEN))
        return Image.fromarray(under(DOMAINS[domain], draw(self.seed, self.start + index, SEEN[name])))

    def describe(self, index: int) -> str:
        return f"image {self.start + index}"
