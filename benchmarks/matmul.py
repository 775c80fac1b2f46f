"""A training step of float32 on a CPU with its products by oneDNN, beside the same step with torch's own choice.

    python benchmarks/matmul.py [--model NAME --size PX] [--methods lora ssf ...] [--threads 1]

Both are the loop of this package on the same random images. They run in turn in one process; written are medians over
rounds, of milliseconds of the processor a step and of the ratio within a round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from by_hand import NAMES
from rows import append
from step import Arm, Bench, measured_on, parser_of_steps, with_method

from peftbench.foundation import matmul
from peftbench.foundation.seeding import deterministic, seed_everything

Ways = Mapping[str, Callable[[], AbstractContextManager[None]]]
# a step of a model by either of two ways, of which the first is as it was
WaysOf = Callable[[Any, Bench], Ways]


def milliseconds(model: Any, bench: Bench, ways: Ways, rounds: int) -> dict[str, list[float]]:
    """Of one step, in each round, by the way that it is computed."""
    arms: dict[str, Arm] = {name: bench.ours(model) for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    # the first rounds make what is kept for later ones
    first = 4 if bench.device.type == "cuda" else 1
    for number in range(first + rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            with ways[name]():
                seconds = bench.seconds(arms[name], repeats=1)
            if number >= first:
                times[name].append(1e3 * seconds)
    return times


def compared(about: str | None, ways_of: WaysOf, precision: str, out: str) -> None:
    """A row for each method: medians of a step by either of two ways, and of their ratio in one round, in `out`."""
    parser = parser_of_steps(about)
    parser.set_defaults(device="cpu", batch=16)
    parser.add_argument("--methods", nargs="+", default=[name for name in NAMES if name != "linear"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / out)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shared = measured_on(arguments)
    for method in arguments.methods:
        with deterministic(arguments.device):
            seed_everything(0)
            bench = Bench(arguments, precision)
            model = with_method(bench.net(), method, bench.size).to(bench.device).train()
            before, after = ways = ways_of(model, bench)
            times = milliseconds(model, bench, ways, arguments.rounds)
        row = shared | {"method": method}
        row |= {f"{name}_ms": f"{statistics.median(found):.1f}" for name, found in times.items()}
        ratios = [new / old for new, old in zip(times[after], times[before], strict=True)]
        append(arguments.out, row | {f"{after}_over_{before}": f"{statistics.median(ratios):.3f}"})


if __name__ == "__main__":
    compared(
        __doc__,
        lambda model, bench: {name: partial(matmul.multiplied_by, name) for name in (matmul.TORCH, matmul.ONEDNN)},
        "fp32",
        "matmul.csv",
    )
