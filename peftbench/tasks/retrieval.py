"""Retrieval: images are found by their captions and captions by their images, in the space of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.pair import Match, Pair
from peftbench.foundation.exact import exact
from peftbench.foundation.metric import Metric
from peftbench.tasks.base import TASKS, Targets, Task, pair_for
from peftbench.tasks.model import TaskModel
from peftbench.tasks.recall import RetrievalMeter, own_texts
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Meter
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec


@TASKS.add("retrieval")
@dataclass(frozen=True)
class Retrieval(Task):
    """Captions of images: `captions`, int64 [batch], how many of the texts of a batch each image has.

    Trained by the symmetric contrastive loss of a batch (CLIP, arXiv:2103.00020, section 2.3), see `contrastive_loss`;
    the pair's scale stays. Recall at 1, 5 and 10 both ways over the whole split as pool; the mean of the six is the
    primary number.
    """

    primary: ClassVar[Metric] = Metric("mean_recall")
    reads: ClassVar[tuple[str, ...]] = ("captions",)
    reads_texts: ClassVar[bool] = True

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        pair_for(self.name, backbone)

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        return RetrievalModel(backbone, nn.Identity())

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            images, texts = model(*(batch[name] for name in inputs))
            return contrastive_loss(exact(images), exact(texts), batch["text"], batch["captions"])

        return loss_fn

    def meter(self, targets: Targets) -> Meter:
        return RetrievalMeter()


class RetrievalModel(TaskModel):
    """Images [batch, 3, height, width], ids of texts [batch, texts, length] -> features [batch, joint] and [batch,
    texts, joint], whose products are the pair's logits: those of texts at length 1, those of images at its scale.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*self.backbone.inputs, "text")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        pair = self.backbone
        assert isinstance(pair, Pair) and isinstance(pair.match, Match)
        images, texts = pair.image_features(inputs[0]), pair.features_of_texts(inputs[1])
        return pair.match.logit_scale.exp() * F.normalize(images, dim=-1), F.normalize(texts, dim=-1)


def contrastive_loss(images: Tensor, texts: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of finding each caption among all others, and each image among all others; mean of the two.

    images [batch, width], texts [batch, texts, width] with ids [batch, texts, length], of which the first `counts`
    [batch] are captions. Every caption is a pair with its image. No negatives of a pair are the other captions of its
    image, captions of the same words, and, for the caption, images that have a caption of the same words.
    """
    size, most, _ = texts.shape
    kept = own_texts(counts, most).flatten()
    logits = images @ texts.flatten(0, 1).T
    rows = ids.flatten(0, 1)
    same = (rows[:, None] == rows[None]).all(dim=-1) & kept[None]
    owner = torch.arange(size, device=ids.device).repeat_interleave(most)
    own = torch.arange(size * most, device=ids.device)
    pairs = owner[:, None] == torch.arange(size, device=ids.device)
    # from image to text: one row a pair
    hidden = ((owner[:, None] == owner[None]) | same | ~kept[None]) & (own[:, None] != own[None])
    to_text = F.cross_entropy(logits[owner].masked_fill(hidden, -torch.inf), own, reduction="none")
    # from text to image
    said = same.unflatten(1, (size, most)).any(dim=-1) & ~pairs
    to_image = F.cross_entropy(logits.T.masked_fill(said, -torch.inf), owner, reduction="none")
    both = (to_text + to_image) / 2
    # of places without a caption nothing counts, not even a gradient
    return torch.where(kept, both, 0.0).sum() / kept.sum().clamp(min=1)
