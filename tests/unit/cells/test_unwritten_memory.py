"""New memory is not filled (see `seeding.deterministic`), so nothing may read it before it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from peftbench.cells.parts import build_parts
from peftbench.cells.train import train_parts
from peftbench.foundation.progress import Progress
from peftbench.foundation.seeding import deterministic
from tests.composing import gate

WORDS = ("dataset=digits", "backbone.img_size=16", "train.epochs=1", "optim.warmup_epochs=0", "train.batch_size=400")
CHOICES = (
    ("method=lora",),
    ("method=ssf", "train.precision=bf16"),
    ("method=compacter", "train.drop_path=0.1"),
    ("method=convpass", "train.augment=rrc_flip", "train.erasing=0.2"),
    ("method=full", "train.mixup=0.2", "optim.clip_norm=1"),
)


def trained(words: tuple[str, ...], folder: Path, poison: bool) -> list[Tensor]:
    """All tensors of a cell after one epoch; with `poison` torch fills new memory with NaN or the largest integer."""
    config, runtime = gate(*WORDS, *words, "runtime.device=cpu", f"runtime.cache={folder}")
    with deterministic("cpu"):
        torch.utils.deterministic.fill_uninitialized_memory = poison
        assert not poison or torch.empty(3).isnan().all()
        parts = build_parts(config, runtime, Progress(False))
        train_parts(config, parts, Progress(False), "", runtime)
        return [tensor.detach() for tensor in parts.model.state_dict().values()]


@pytest.mark.slow
@pytest.mark.parametrize("words", CHOICES, ids=lambda words: words[0])
def test_no_step_reads_memory_that_was_not_written(words: tuple[str, ...], tmp_path: Path) -> None:
    plain, poisoned = (trained(words, tmp_path, poison) for poison in (False, True))
    assert all(torch.equal(first, second) for first, second in zip(plain, poisoned, strict=True))
    assert all(tensor.isfinite().all() for tensor in poisoned)
