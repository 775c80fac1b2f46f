"""Frozen features: when only the head trains on ever the same images, the backbone runs once, not every epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peftbench.cells.setup import Setup
from peftbench.data.base import ImageSplit
from peftbench.train.batches import Batches, evaluation_batches, training_batches
from peftbench.train.precision import autocast


@dataclass(frozen=True)
class Trainee:
    """What the loop trains: the whole model on images, or the head on features that were computed once."""

    module: nn.Module
    train: Batches
    val: Batches | None
    feature_seconds: float = 0.0

    @property
    def on_features(self) -> bool:
        return self.feature_seconds > 0


def trainee(setup: Setup, train_set: ImageSplit, val_set: ImageSplit | None) -> Trainee:
    """The head on cached features where that computes the same thing, else the model on images."""
    if not _features_are_fixed(setup):
        return Trainee(setup.model, setup.train_batches(train_set), setup.eval_batches(val_set) if val_set else None)
    config, start = setup.config, time.perf_counter()
    features = _extract(setup, train_set)
    train = training_batches(
        features,
        train_set.labels,
        config.train,
        num_classes=setup.source.num_classes,
        seed=config.seed,
        device=setup.device,
    )
    val = None
    if val_set is not None:
        val = evaluation_batches(_extract(setup, val_set), val_set.labels, config.train, device=setup.device)
    return Trainee(setup.model.head, train, val, time.perf_counter() - start)


def _features_are_fixed(setup: Setup) -> bool:
    train, objective = setup.config.train, setup.config.objective
    chance = train.drop_path > 0 or train.mixup > 0 or train.cutmix > 0 or train.augment != "none" or train.erasing > 0
    return train.cache_features and objective.plain and not chance and not setup.model.backbone.trainable


def _extract(setup: Setup, split: ImageSplit) -> Tensor:
    """Pooled features [num, feature_dim] in float32, on the device."""
    backbone = setup.model.backbone.eval()
    parts = []
    with torch.inference_mode(), autocast(setup.device, setup.config.train.precision):
        for batch in setup.eval_batches(split).epoch(0):
            parts.append(backbone(batch["image"]).float())
    return torch.cat(parts).clone()
