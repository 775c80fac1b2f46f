"""Losses are computed in single precision at least: half precision is widened, double precision stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.tasks.answers import answer_loss
from peftbench.tasks.base import TASKS
from peftbench.tasks.classification import classification_loss
from peftbench.train.options import TrainSpec

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = torch.tensor([[0, 1], [2, 255]])[None].repeat(2, 1, 1)
BATCH = {
    "label": torch.tensor([0, 2]),
    "class_map": CLASSES,
    "depth": torch.rand(2, 2, 2, generator=GENERATOR),
    "normals": torch.nn.functional.normalize(torch.randn(2, 3, 2, 2, generator=GENERATOR), dim=1),
    "edges": CLASSES.clamp(max=1),
    "saliency": CLASSES.clamp(max=1),
}


def _of_task(name: str) -> Callable[[Tensor], Tensor]:
    task: Any = TASKS.get(name)()
    return lambda outputs: task.loss(outputs, BATCH, TrainSpec())


LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "classification": (lambda outputs: classification_loss()(lambda *_: outputs, {**BATCH, "image": outputs}), (2, 3)),
    "vqa": (lambda outputs: answer_loss(outputs, torch.rand(2, 3, generator=torch.Generator().manual_seed(1))), (2, 3)),
    "segmentation": (_of_task("segmentation"), (2, 3, 2, 2)),
    "depth": (_of_task("depth"), (2, 1, 2, 2)),
    "normals": (_of_task("normals"), (2, 3, 2, 2)),
    "edges": (_of_task("edges"), (2, 1, 2, 2)),
    "saliency": (_of_task("saliency"), (2, 1, 2, 2)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_keeps_what_precision_it_is_given(name: str) -> None:
    loss, shape = LOSSES[name]
    outputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    exact, single, half = (loss(outputs.to(dtype)) for dtype in (torch.float64, torch.float32, torch.bfloat16))
    assert (exact.dtype, single.dtype, half.dtype) == (torch.float64, torch.float32, torch.float32)
    assert abs(exact - single) < 1e-6
    # the rounding of single precision would show
    assert exact.item() != single.item()
    assert half == loss(outputs.to(torch.bfloat16).float())
