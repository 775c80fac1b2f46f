"""A training step whose gradients of queries, keys and values are put together in one pass, beside torch's two.

    python benchmarks/unbinding.py fp32|bf16 [--device cuda] [--model NAME --size PX] [--methods lora ssf ...]

Measured and written as `last_block.py` does. Both ways give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from last_block import main
from matmul import Ways
from step import Bench


@contextmanager
def passes(bench: Bench, one: bool) -> Iterator[None]:
    bench.one_pass = one
    yield


def ways_of(model: Any, bench: Bench) -> Ways:
    return {"two": partial(passes, bench, False), "one": partial(passes, bench, True)}


if __name__ == "__main__":
    main(__doc__, ways_of, "unbinding")
