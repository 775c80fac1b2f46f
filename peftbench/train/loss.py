"""What a training loss is, for every task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from peftbench.train.batches import Batch

# the inputs of a batch -> outputs; a module is one
Model: TypeAlias = Callable[..., Any]
# mean loss of a batch, in float32
LossFn: TypeAlias = Callable[[Model, Batch], Tensor]
