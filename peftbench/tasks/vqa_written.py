"""Questions about images, answered in words that a T5 writes (VL-T5, Cho et al., ICML 2021, arXiv:2102.02779)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import Taps, feature_maps, taps_of
from peftbench.backbones.vl_t5 import VLT5
from peftbench.data.texted import plain_answer
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.metric import Metric
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.answers import WrittenMeter, drawn_answer
from peftbench.tasks.base import TASKS, Targets, Task
from peftbench.tasks.model import TaskModel
from peftbench.tasks.vqa import QuestionModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Meter
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec

_NORM_EPS = 1e-6
# x1, x2, y1, y2 and area of a region
_NUM_PLACES = 5


@TASKS.add("vqa_written")
@dataclass(frozen=True)
class WrittenVQA(Task):
    """`answers`, int64 [batch, annotators]: numbers of the classes, -1 for others, as `task=vqa` has them.

    The encoder reads the image's tokens beside the question behind `prompt`, the decoder writes. In training it is
    shown one answer of each question, drawn in proportion to its score; the loss is the mean cross-entropy of that
    answer's tokens times the score. In evaluation an answer of `longest` tokens at most is searched with `beams`; it
    counts as the class of the same words (lower case, no articles, no punctuation). As in VL-T5's released code.
    """

    primary: ClassVar[Metric] = Metric("vqa_accuracy")
    reads: ClassVar[tuple[str, ...]] = ("answers",)
    reads_texts: ClassVar[bool] = True

    prompt: str = option("vqa:")
    beams: int = option(5, ge=1)
    longest: int = option(20, ge=1)

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        _vl_t5(backbone).prompt = self.prompt

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        both = _vl_t5(backbone)
        taps = taps_of(both.image, 1).last
        with seeded(seed, "head"):
            head = VisualEmbedding(taps.widths[0], both.text.shape.width, both.image.shape.grid)
        return WritingModel(both, head, taps, targets.class_names, self.beams, self.longest)

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            chosen, scores = drawn_answer(batch["answers"])
            surprise: Tensor = model(*(batch[name] for name in inputs), chosen)
            return (surprise * scores.to(surprise.dtype)).mean()

        return loss_fn

    def meter(self, targets: Targets) -> Meter:
        return WrittenMeter(targets.num_classes)


def _vl_t5(backbone: Backbone) -> VLT5:
    if not isinstance(backbone, VLT5):
        raise NotApplicable(
            "task=vqa_written needs a T5 beside the image tower: backbone.writer=FOLDER with config.json, "
            "model.safetensors and tokenizer.json; task=vqa chooses among answers instead"
        )
    return backbone


class VisualEmbedding(nn.Module):
    """Image tokens [batch, tokens, image width] -> [batch, tokens, width], as the text tower's encoder reads them.

    norm(W f) + norm(V b) + o, each norm T5's with a scale of its own, b the sides x1, x2, y1, y2 of the token's cell as
    shares of the image and its area, o a vector of each cell (VL-T5's `VisualEmbedding`, which takes o from T5's own
    table). With T tokens it has w (d + 1) + 5 w + w + 2 w + T w parameters.
    """

    boxes: Tensor

    def __init__(self, image_width: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.features, self.feature_norm = nn.Linear(image_width, width), nn.RMSNorm(width, _NORM_EPS)
        self.places, self.place_norm = nn.Linear(_NUM_PLACES, width), nn.RMSNorm(width, _NORM_EPS)
        self.order = nn.Parameter(torch.empty(grid[0] * grid[1], width).normal_(std=0.02))
        self.register_buffer("boxes", cells_of(grid), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        seen: Tensor = self.feature_norm(self.features(tokens)) + self.place_norm(self.places(self.boxes)) + self.order
        return seen


def cells_of(grid: tuple[int, int]) -> Tensor:
    """x1, x2, y1, y2 in 0..1 and area of each cell of a grid of [rows, columns], row by row: [cells, 5]."""
    rows, columns = grid
    top, left = (torch.arange(count) / count for count in grid)
    y1, x1 = (side.flatten() for side in torch.meshgrid(top, left, indexing="ij"))
    x2, y2 = x1 + 1 / columns, y1 + 1 / rows
    return torch.stack([x1, x2, y1, y2, (y2 - y1) * (x2 - x1)], dim=1)


class WritingModel(QuestionModel):
    """Images [batch, 3, height, width], ids of one question each [batch, 1, length] -> the number of the written answer
    among the classes, int64 [batch], -1 for other words.

    With class numbers [batch] as a third input, the mean cross-entropy of the tokens of these classes instead, [batch].
    """

    answer_rows: Tensor

    def __init__(
        self, backbone: VLT5, head: VisualEmbedding, taps: Taps, answers: Sequence[str], beams: int, longest: int
    ) -> None:
        super().__init__(backbone, head)
        self.layers, self.beams, self.longest = taps.layers, beams, longest
        self.register_buffer("answer_rows", backbone.text.rows(answers).to(backbone.device), persistent=False)
        # of two answers of the same words the first
        self.numbers = {plain_answer(name): number for number, name in reversed([*enumerate(answers)])}

    def forward(self, *inputs: Tensor) -> Tensor:
        image, questions, *chosen = inputs
        both = self.backbone
        assert isinstance(both, VLT5)
        (tokens,) = feature_maps(both.image, (image,), self.layers)
        read, real = both.text.read(questions[:, 0], self.head(tokens.flatten(2).transpose(1, 2)))
        if not chosen:
            texts = both.text.texts(both.text.write(read, real, self.beams, self.longest))
            found = [self.numbers.get(plain_answer(text), -1) for text in texts]
            return torch.tensor(found, dtype=torch.int64, device=image.device)
        rows = self.answer_rows[chosen[0]]
        logits, counted = exact(both.text.likelihoods(read, real, rows)), rows != both.text.pad
        surprise = F.cross_entropy(logits.flatten(0, 1), rows.flatten(), reduction="none").view_as(rows)
        return (surprise * counted).sum(dim=1) / counted.sum(dim=1)
