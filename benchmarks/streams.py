"""Several captured cells on one GPU: their steps one after the other, or each on a stream of its own.

    python benchmarks/streams.py [--model NAME --size PX] [--methods lora ...] [--cells 2 4]

Each cell is a model of its own with its recorded step, on a stream of its own. In a round all make the same number of
steps: first one cell after the other, then all at once. Medians over rounds of milliseconds for one step of
every cell, and of the ratio in a round, are written. CUDA only.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from rows import append
from step import Bench, measured_on, parser_of_steps, with_method

from peftbench.foundation.seeding import deterministic, seed_everything
from peftbench.train.capture import Graphs


def recorded(bench: Bench, method: str) -> Graphs:
    """Two steps of a new model as one graph, recorded on a stream of its own."""
    model = with_method(bench.net(), method, bench.size).to(bench.device).train()
    graphs = Graphs(bench.two_steps(model), bench.device)
    graphs._stream = torch.cuda.Stream(bench.device)

    for _ in range(4):
        with graphs.running():
            graphs(())
    return graphs


def now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = parser_of_steps(__doc__)
    parser.add_argument("--methods", nargs="+", default=["lora"])
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--cells", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=10, help="pairs of steps of a cell in a round (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "streams.csv")
    arguments = parser.parse_args()
    bench = Bench(arguments, arguments.precision)
    seed_everything(0)
    with deterministic(arguments.device):
        for method in arguments.methods:
            cells = [recorded(bench, method) for _ in range(max(arguments.cells))]
            for number in arguments.cells:
                append(arguments.out, measured_on(arguments) | compared(cells[:number], arguments, method))


def compared(cells: list[Graphs], arguments: object, method: str) -> dict[str, object]:
    """One row: the same steps in turn and at once."""
    rounds, repeats, precision = (getattr(arguments, name) for name in ("rounds", "repeats", "precision"))

    def in_turn() -> None:
        for graphs in cells:
            with torch.cuda.stream(graphs._stream):
                for _ in range(repeats):
                    graphs(())
            torch.cuda.synchronize()

    def at_once() -> None:
        for _ in range(repeats):
            for graphs in cells:
                with torch.cuda.stream(graphs._stream):
                    graphs(())

    times: dict[str, list[float]] = {"in_turn": [], "at_once": []}
    for _ in range(rounds):
        for name, work in (("in_turn", in_turn), ("at_once", at_once)):
            start = now()
            work()
            times[name].append(1e3 * (now() - start) / (2 * repeats))
    ratio = statistics.median(b / a for a, b in zip(times["in_turn"], times["at_once"], strict=True))
    medians = {f"{name}_ms": f"{statistics.median(found):.3f}" for name, found in times.items()}
    return {"precision": precision, "method": method, "cells": len(cells)} | medians | {"ratio": f"{ratio:.3f}"}


if __name__ == "__main__":
    main()
