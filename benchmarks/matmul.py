"""A training step of float32 on a CPU with its products by oneDNN, beside the same step with torch's own choice.

    python benchmarks/matmul.py [--model NAME --size PX] [--methods lora ssf ...] [--threads 1]

Both are the loop of this package on the same random images. They run in turn in one process; written are medians over
rounds, of milliseconds of the processor a step and of the ratio within a round.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import torch
from by_hand import NAMES
from rows import append
from step import Bench, measured_on, parser_of_steps, with_method

from peftbench.foundation import matmul
from peftbench.foundation.seeding import deterministic, seed_everything


def milliseconds(bench: Bench, method: str, rounds: int) -> dict[str, list[float]]:
    """Of one step, in each round, by the library that multiplies."""
    seed_everything(0)
    arm = bench.ours(with_method(bench.net(), method, bench.size).train())
    libraries = matmul.TORCH, matmul.ONEDNN
    times: dict[str, list[float]] = {library: [] for library in libraries}
    for number in range(rounds + 1):
        for library in libraries[:: 1 if number % 2 else -1]:
            with matmul.multiplied_by(library):
                seconds = bench.seconds(arm, repeats=1)
            # the first round makes what is kept for later ones
            if number:
                times[library].append(1e3 * seconds)
    return times


def main() -> None:
    parser = parser_of_steps(__doc__)
    parser.set_defaults(device="cpu", batch=16)
    parser.add_argument("--methods", nargs="+", default=[name for name in NAMES if name != "linear"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "matmul.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shared = measured_on(arguments)
    with deterministic("cpu"):
        for method in arguments.methods:
            times = milliseconds(Bench(arguments, "fp32"), method, arguments.rounds)
            row = shared | {"method": method}
            row |= {f"{library}_ms": f"{statistics.median(found):.1f}" for library, found in times.items()}
            ratios = [new / old for new, old in zip(times[matmul.ONEDNN], times[matmul.TORCH], strict=True)]
            append(arguments.out, row | {"onednn_over_torch": f"{statistics.median(ratios):.3f}"})


if __name__ == "__main__":
    main()
