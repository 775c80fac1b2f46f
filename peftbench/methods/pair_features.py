"""What methods on frozen features of a pair have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.class_texts import ClassTexts
from peftbench.backbones.pair import Pair, PairShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.methods.observation import Batch

# images that the frozen towers look at in one go
BATCH = 256


def pair_of(name: str, backbone: Backbone) -> tuple[Pair, ClassTexts]:
    """The pair and the fixed texts of its classes. Raises `NotApplicable` where the method `name` finds none."""
    if not isinstance(backbone, Pair) or not isinstance(backbone.classes, ClassTexts):
        raise NotApplicable(f"{name} works on the texts of classes: task=text_classification with a pair of towers")
    return backbone, backbone.classes


def pair_shape(name: str, shape: BackboneShape) -> PairShape:
    """The numbers of a pair. Raises `NotApplicable` for another backbone."""
    if not isinstance(shape, PairShape):
        raise NotApplicable(f"{name} needs a backbone that reads images and texts, such as pair_micro")
    return shape


def features_of(pair: Pair, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Image features [images, joint], not normalised, and labels int64 [images] of all batches, in their order."""
    training = pair.training
    pair.eval()
    with torch.no_grad():
        found = [(exact(pair.image_features(batch["image"])), batch["label"]) for batch in batches]
    pair.train(training)
    features, labels = zip(*found, strict=True)
    return torch.cat(features), torch.cat(labels)
