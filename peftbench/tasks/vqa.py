"""Questions about images, answered out of a closed vocabulary (Antol et al., ICCV 2015; VQA v2, CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.maps import Taps, feature_maps, taps_of
from peftbench.backbones.pair import Pair
from peftbench.foundation.metric import Metric
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.answers import AnswerMeter, answer_loss, scores_of
from peftbench.tasks.base import TASKS, Targets, Task, pair_for
from peftbench.tasks.model import TaskModel, new_head
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Meter
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec

READ, PRODUCT = "read", "product"


@TASKS.add("vqa")
@dataclass(frozen=True)
class VQA(Task):
    """`answers`, int64 [batch, annotators]: numbers of the classes, which are the vocabulary, -1 for others.

    `fusion`: with `read` the text tower reads the image's tokens, mapped to its width, ahead of the question, as VL-T5
    does (Cho et al., ICML 2021, section 3.1); with `product` a head multiplies the features of image and question
    (Anderson et al., CVPR 2018, section 3.3). Binary cross-entropy with soft scores; the primary number is VQA's
    accuracy.
    """

    primary: ClassVar[Metric] = Metric("vqa_accuracy")
    reads: ClassVar[tuple[str, ...]] = ("answers",)
    reads_texts: ClassVar[bool] = True

    fusion: str = option(READ, choices=(READ, PRODUCT))

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        pair_for(self.name, backbone)

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        pair = pair_for(self.name, backbone)
        if self.fusion == PRODUCT:
            with seeded(seed, "head"):
                return ProductModel(pair, ProductHead(pair.feature_dim, targets.num_classes))
        taps = taps_of(pair.image, 1).last
        with seeded(seed, "head"):
            return ReadingModel(pair, ReadingHead(pair, taps, targets.num_classes), taps)

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            logits = model(*(batch[name] for name in inputs))
            return answer_loss(logits, scores_of(batch["answers"], logits.shape[1]))

        return loss_fn

    def meter(self, targets: Targets) -> Meter:
        return AnswerMeter()


class QuestionModel(TaskModel):
    """Images [batch, 3, height, width], ids of one question each [batch, 1, length] -> logits [batch, answers]."""

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*self.backbone.inputs, "text")


class ProductHead(nn.Module):
    """Features of image and question [batch, joint] each -> logits [batch, answers]: W (ReLU(A f) * ReLU(B w)), the
    features at length sqrt(joint).
    """

    def __init__(self, joint: int, num_answers: int) -> None:
        super().__init__()
        self.image, self.question = nn.Linear(joint, joint), nn.Linear(joint, joint)
        self.answer = new_head(joint, num_answers)

    def forward(self, image: Tensor, question: Tensor) -> Tensor:
        f, w = (F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 for x in (image, question))
        logits: Tensor = self.answer(self.image(f).relu() * self.question(w).relu())
        return logits


class ProductModel(QuestionModel):
    def forward(self, *inputs: Tensor) -> Tensor:
        pair = self.backbone
        assert isinstance(pair, Pair)
        logits: Tensor = self.head(pair.image_features(inputs[0]), pair.features_of_texts(inputs[1])[:, 0])
        return logits


class ReadingHead(nn.Module):
    """The visual embedding and the answers of a text tower that reads images.

    `visual`: image tokens [batch, tokens, image width] -> [batch, tokens, text width], with a position of each;
    `answer`: text features [batch, text width] -> logits.
    """

    def __init__(self, pair: Pair, taps: Taps, num_answers: int) -> None:
        super().__init__()
        height, columns = pair.image.shape.grid
        width = pair.text.shape.width
        self.visual = nn.Linear(taps.widths[0], width)
        self.places = nn.Parameter(torch.empty(height * columns, width).normal_(std=0.02))
        self.answer = new_head(width, num_answers)


class ReadingModel(QuestionModel):
    def __init__(self, backbone: Backbone, head: ReadingHead, taps: Taps) -> None:
        super().__init__(backbone, head)
        self.layers = taps.layers

    def forward(self, *inputs: Tensor) -> Tensor:
        pair, head = self.backbone, self.head
        assert isinstance(pair, Pair) and isinstance(head, ReadingHead)
        (tokens,) = feature_maps(pair.image, inputs[:1], self.layers)
        seen = head.visual(tokens.flatten(2).transpose(1, 2)) + head.places
        ids = inputs[1][:, 0]
        logits: Tensor = head.answer(pair.text.read(pair.text.embed(ids), pair.text.ends(ids), seen))
        return logits
