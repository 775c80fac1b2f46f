"""Batch norms in training, which learn nothing from one value a channel."""

from __future__ import annotations

from torch import nn

from peftbench.foundation.errors import ConfigError


def require_two_images(module: nn.Module, batch: int, has: str) -> None:
    """Raises `ConfigError` in training on one image, where torch would speak of values per channel; `has`: who asks."""
    if module.training and batch < 2:
        raise ConfigError(
            [
                f"{has} and needs two images in every training batch; choose a train.batch_size that leaves no single "
                "image, or set train.keep_last_batch=false"
            ]
        )
