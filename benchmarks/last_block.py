"""A training step whose last block runs for the tokens that are read alone, beside the same step with the whole block.

    python benchmarks/last_block.py fp32|bf16 [--device cuda] [--model NAME --size PX] [--methods lora ssf ...]

Measured and written as `matmul.py` does, on a CPU with products and gradients of attention as a cell there has them;
on CUDA both are captured, and milliseconds are those of the clock.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import torch
from matmul import Ways, WaysOf, compared
from step import Bench

from peftbench.cells.last_block import last_block
from peftbench.foundation import attention, matmul
from peftbench.train.options import LAST_BLOCKS, PRECISIONS, TrainSpec


def ways_of(model: Any, bench: Bench) -> Ways:
    """`all` and `read` of `train.last_block`."""
    spec = TrainSpec(precision=bench.precision, last_block="read")
    found = last_block(model, bench.loss_fn, bench.batches, spec)
    assert not found.why, found.why
    return dict(zip(LAST_BLOCKS, (nullcontext, found.in_use), strict=True))


def main(about: str | None, ways_of: WaysOf, name: str) -> None:
    """The comparison in the precision that the first word says, in `name`_PRECISION.csv."""
    if len(sys.argv) < 2 or sys.argv[1] not in PRECISIONS[:2]:
        sys.exit((about or "").strip())
    precision, cpu = sys.argv.pop(1), torch.device("cpu")
    sums = matmul.multiplied_by(matmul.chosen("auto", cpu))
    with sums, attention.gradients_in(attention.chosen("auto", cpu, precision, compiled=False)):
        compared(about, ways_of, precision, f"{name}_{precision}.csv")


if __name__ == "__main__":
    main(__doc__, ways_of, "last_block")
