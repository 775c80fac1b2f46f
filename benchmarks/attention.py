"""A training step in bf16 on a CPU, gradients of attention in float32, beside the same step as torch computes it.

    python benchmarks/attention.py [--model NAME --size PX] [--methods lora ssf ...] [--threads 1]

Measured and written as `matmul.py` does.
"""

from __future__ import annotations

from functools import partial

from matmul import compared

from peftbench.foundation import attention

if __name__ == "__main__":
    kinds = attention.TORCH, attention.FLOAT32
    compared(__doc__, {kind: partial(attention.gradients_in, kind) for kind in kinds}, "bf16", "attention.csv")
