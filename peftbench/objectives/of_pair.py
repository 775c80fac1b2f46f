"""What the objectives of pairs share: features of both sides of a batch, and what the untouched pair says."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.pair import Pair
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.objectives.base import Objective
from peftbench.tasks.model import TaskModel


def pair_that_reads(name: str, backbone: Backbone) -> Pair:
    """Raises `NotApplicable` where the backbone compares no images with texts."""
    if not isinstance(backbone, Pair) or backbone.classes is None:
        raise NotApplicable(
            f"objective {name} holds on to the texts of classes; it goes with task=text_classification on a pair, such "
            "as backbone=pair_micro"
        )
    return backbone


def compared(pair: Pair, images: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Features of images [batch, joint] and of classes [(batch,) classes, joint], as they are, and logits.

    Of the classes the first `num_classes`, None for all: what training may know of (`TaskModel.num_trained`).
    """
    f = pair.image_features(images)
    w = pair.class_features(f)[..., :num_classes, :]
    return f, w, pair.match(f, w)


def texts_of_classes(pair: Pair) -> Tensor:
    """Features of the classes as the pair reads them now [classes, joint], without a gradient."""
    with torch.no_grad():
        return pair.class_features(torch.zeros(1, pair.feature_dim, device=pair.device))


@dataclass(frozen=True)
class BesideUntouched(Objective):
    """Base of objectives that compare a pair in training with a copy of it as it was loaded."""

    of_pairs: ClassVar[bool] = True

    def untouched(self, pair: Pair) -> Untouched:
        """What of the pair is kept, with the features of the classes that it is to be compared by."""
        raise NotImplementedError

    def prepare(self, backbone: Backbone, num_classes: int) -> nn.Module:
        return self.untouched(pair_that_reads(self.name, backbone))

    def install(self, model: TaskModel, own: nn.Module) -> None:
        model.add_module("untouched", own)

    def both(self, model: TaskModel) -> tuple[Pair, Untouched]:
        """The pair in training, and the untouched one."""
        own = model.get_submodule("untouched")
        assert isinstance(own, Untouched)
        return pair_that_reads(self.name, model.backbone), own


class OfClasses(nn.Module):
    """`w`: features of the classes [classes, joint] at length 1, that do not train and are no part of an adapter."""

    w: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("w", F.normalize(exact(features), dim=-1), persistent=False)


class Untouched(OfClasses):
    """The same with a copy of the pair's image side as it was loaded."""

    def __init__(self, features: Tensor, pair: Pair) -> None:
        super().__init__(features)
        self.image, self.projection = copy.deepcopy(pair.image).eval(), copy.deepcopy(pair.image_projection)

    def train(self, mode: bool = True) -> Untouched:
        # what it says never changes
        return super().train(False)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[batch, joint], at length 1."""
        return F.normalize(exact(self.projection(self.image(images))), dim=-1)
