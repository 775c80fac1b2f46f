"""Which kernels the device's time of one captured step goes to.

    python benchmarks/kernels.py [--model NAME --size PX] [--methods lora ...] [--precision bf16] [--compile] [--hand]

An epoch of recorded steps is replayed under torch's profiler. The dearest kernels are printed, and of all of them the
sum and the number are written. CUDA only.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from by_hand import by_hand
from rows import append
from step import Arm, Bench, measured_on, parser_of_steps, with_method
from torch.profiler import ProfilerActivity, profile

from peftbench.foundation.seeding import deterministic, seed_everything

SHOWN = 25


def arm_of(bench: Bench, method: str, compiled: bool, hand: bool) -> Arm:
    """An epoch of the method, here or as it is written by hand, recorded."""
    if hand:
        model = by_hand(bench.net(), method)
        assert model is not None, f"{method} is not written by hand"
        arm = bench.bare(model.to(bench.device).train(), own=False)
    else:
        arm = bench.ours(with_method(bench.net(), method, bench.size).to(bench.device).train(), compiled)
    for _ in range(5):
        arm()
    torch.cuda.synchronize()
    return arm


def kernels(arm: Arm, steps: int) -> tuple[Counter[str], Counter[str]]:
    """By name the milliseconds of the kernels of one step, and their numbers in the `steps` that an arm makes."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        arm()
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name] += event.device_time_total / (1e3 * steps)
            numbers[event.name] += 1
    return times, numbers


def main() -> None:
    parser = parser_of_steps(__doc__)
    parser.add_argument("--methods", nargs="+", default=["lora"])
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--compile", action="store_true", help="under train.compile=true")
    parser.add_argument("--hand", action="store_true", help="the method as it is written by hand")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kernels.csv")
    arguments = parser.parse_args()
    bench = Bench(arguments, arguments.precision)
    with deterministic(arguments.device):
        for method in arguments.methods:
            seed_everything(0)
            times, numbers = kernels(arm_of(bench, method, arguments.compile, arguments.hand), bench.steps)
            for name, taken in times.most_common(SHOWN):
                print(f"{taken:8.3f} ms {numbers[name] / bench.steps:6.0f} x  {name[:120]}", flush=True)
            row = measured_on(arguments) | {"precision": arguments.precision, "method": method}
            row |= {"compiled": arguments.compile, "by_hand": arguments.hand}
            total = {
                "kernels_ms": f"{sum(times.values()):.2f}",
                "kernels": f"{sum(numbers.values()) / bench.steps:.0f}",
            }
            append(arguments.out, row | total)


if __name__ == "__main__":
    main()
