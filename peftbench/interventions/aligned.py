"""Prompts of images and of texts that come from one source, of every task its own (MmAP, arXiv:2312.08636)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.class_texts import Reader
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.context import STD, LearnedContext
from peftbench.interventions.shared import refer


class Aligned(nn.Module):
    """Prompts of several units at one depth: K_t kron P for texts, K_v kron P for images, P the source of both.

    source: [units, b, d], N(0, 0.02); to_text [units, m, text width / d] and to_image [units, m, image width / d],
    N(0, 1), so that prompts start as small as the source. `members`: int64 [tasks, k], the units of every task.
    """

    members: Tensor

    def __init__(self, members: Tensor, tokens: int, copies: int, source: int, text: int, image: int) -> None:
        super().__init__()
        units = int(members.max()) + 1
        self.source = nn.Parameter(torch.empty(units, tokens, source).normal_(std=STD))
        self.to_text = nn.Parameter(torch.randn(units, copies, text // source))
        self.to_image = nn.Parameter(torch.randn(units, copies, image // source))
        self.register_buffer("members", members, persistent=False)

    def of_texts(self) -> Tensor:
        """[tasks, k m b, text width]: of every task the prompts of its units, side by side."""
        return self._of(self.to_text)

    def of_images(self) -> Tensor:
        """[tasks, k m b, image width]."""
        return self._of(self.to_image)

    def _of(self, factor: Tensor) -> Tensor:
        made = torch.einsum("uip,ujq->uijpq", factor, self.source).flatten(3).flatten(1, 2)
        return made[self.members].flatten(1, 2)


class OfClasses(nn.Module):
    """The prompts of every class, those of its task: [classes, tokens, text width]. It holds the prompts themselves."""

    tasks: Tensor

    def __init__(self, prompts: Aligned, tasks: Sequence[int]) -> None:
        super().__init__()
        self.prompts = prompts
        self.register_buffer("tasks", torch.tensor(tasks), persistent=False)

    def forward(self) -> Tensor:
        return self.prompts.of_texts()[self.tasks]


class OfImages(nn.Module):
    """The prompts of every image, those of its task: [batch, tokens, image width]; of a single task [tokens, width].

    Which tasks the images are of the pair was told with them.
    """

    prompts: Aligned
    pair: Any

    def __init__(self, prompts: Aligned, pair: nn.Module) -> None:
        super().__init__()
        refer(self, "prompts", prompts)
        refer(self, "pair", pair)

    def forward(self) -> Tensor:
        made = self.prompts.of_images()
        if len(made) == 1:
            return made[0]
        if self.pair.image_tasks is None:
            raise NotApplicable("prompts of tasks are told the task of each image, which this objective does not do")
        of_each: Tensor = made[self.pair.image_tasks]
        return of_each


class AlignedContext(LearnedContext):
    """Classes by texts in the context of their task: -> features [classes, joint]."""

    def __init__(self, base: nn.Module, reader: Reader, names: Sequence[str], context: OfClasses) -> None:
        super().__init__(base, reader, names, context().shape[1])
        del self.context
        self.prompts = context

    def forward(self, reader: Reader, features: Tensor) -> Tensor:
        return reader.text_features(self.embedded(reader, self.prompts()), reader.text.ends(self.ids))
