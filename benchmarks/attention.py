"""A training step in bf16 on a CPU, gradients of attention in float32, beside the same step as torch computes it.

    python benchmarks/attention.py [--model NAME --size PX] [--methods lora ssf ...] [--threads 1]
    python benchmarks/attention.py --kernel

Measured and written as `matmul.py` does. With --kernel: torch's kernel for these gradients alone, over q, k and v of
bfloat16 and over the same cast to float32 and back, for sequences of several lengths, in turn; medians of ratios.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from matmul import compared
from rows import append

from peftbench.cells.provenance import machine
from peftbench.foundation import attention

KINDS = attention.TORCH, attention.FLOAT32
# batch, heads, tokens, channels of a head
SHAPES = (
    (16, 3, 17, 64),
    (16, 4, 65, 32),
    (2, 12, 197, 64),
    (2, 6, 257, 64),
    (1, 12, 577, 64),
    (1, 12, 785, 64),
    (1, 12, 1025, 64),
)
ROUNDS = 9


def milliseconds(shape: tuple[int, ...]) -> tuple[float, float]:
    """Of the processor for one call in bfloat16, and the median over rounds of float32's time over it."""
    asked = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    query, key, value, grad = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)

    def once(wide: bool) -> float:
        start = time.process_time()
        inputs = [tensor.float() if wide else tensor for tensor in (grad, query, key, value, out)]
        for found in asked(*inputs, sums, 0.0, False):
            found.bfloat16()
        return 1e3 * (time.process_time() - start)

    rounds = [(once(False), once(True)) for _ in range(ROUNDS + 1)][1:]
    return statistics.median(own for own, _ in rounds), statistics.median(wide / own for own, wide in rounds)


def kernel() -> None:
    torch.set_num_threads(1)
    shared = {"cpu": machine(torch.device("cpu"))["cpu"], "threads": 1, "torch": torch.__version__}
    for shape in SHAPES:
        own, ratio = milliseconds(shape)
        row = shared | dict(zip(("batch", "heads", "tokens", "channels"), shape, strict=True))
        found = {"bfloat16_ms": f"{own:.2f}", "float32_over_bfloat16": f"{ratio:.2f}"}
        append(Path(__file__).parent / "results" / "attention_kernel.csv", row | found)


if __name__ == "__main__":
    if "--kernel" in sys.argv[1:]:
        kernel()
    else:
        ways = {kind: partial(attention.gradients_in, kind) for kind in KINDS}
        compared(__doc__, lambda model, bench: ways, "bf16", "attention.csv")
