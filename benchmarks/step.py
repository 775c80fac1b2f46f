"""One training step here against a bare hand-written loop of the same arithmetic, in one process, in turn.

    python benchmarks/step.py [--device cuda] [--model NAME --size PX] [--methods lora ssf ...] [--precision fp32 bf16]
        [--compile]

For each method three arms train on the same random images, dropout included:

    ours        the loop of this package, as a cell runs it (captured on CUDA where it can be)
    bare        the same model in the least loop that trains it: no schedule, no checks, batches ready on the device
    hand        the methods of `by_hand.py`: plain modules, in the least loop
    compiled    with --compile: ours under `train.compile=true`

A round runs some epochs of each arm, on CUDA of 16 steps, as VTAB-1k has them. What is printed and written are medians
over rounds, of milliseconds a step (on a CPU those of the processor, all threads together) and of ratios within a
round. Bytes are those autograd keeps for one step (counted, see `training_memory`), without weights.
On CUDA `bare` and `hand` are captured as well, so the ratio is that of the device's work.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
from by_hand import NAMES, by_hand
from torch import nn
from torch.nn import functional as F

import peftbench.backbones.vit_micro  # noqa: F401  registers the embedded model with timm
from peftbench.backbones.build import from_timm
from peftbench.cells.evidence import random_evidence
from peftbench.cells.provenance import machine
from peftbench.foundation.seeding import deterministic, seed_everything
from peftbench.foundation.unbinding import in_one_pass
from peftbench.methods.base import METHODS, install
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from peftbench.train.batches import Batches
from peftbench.train.blocks import Blocks
from peftbench.train.capture import Graphs, reason_against
from peftbench.train.loop import Captured, Started
from peftbench.train.measure import Stopwatch, training_memory
from peftbench.train.optim import Schedule, param_groups
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.precision import autocast
from peftbench.train.step import Step

NUM_CLASSES = 100
Arm = Callable[[], None]


def with_method(net: nn.Module, method: str, size: int) -> nn.Module:
    backbone = from_timm(net, size)
    chosen = METHODS.get(method)()
    found = chosen.observe(random_evidence(backbone)) if chosen.observes else None
    install(chosen, backbone, 0, found)
    return Classifier(backbone, NUM_CLASSES, 0)


class Bench:
    """The arms of one method on one device."""

    def __init__(self, arguments: argparse.Namespace, precision: str) -> None:
        self.device, self.precision = torch.device(arguments.device), precision
        self.batch, self.size, self.model = arguments.batch, arguments.size, arguments.model
        # an even number, since two are one graph in the bare loop
        self.steps = arguments.steps or (16 if self.device.type == "cuda" else 2)
        if self.steps % 2:
            raise SystemExit(f"--steps must be an even number, got {self.steps}")
        generator = torch.Generator().manual_seed(0)
        number = self.steps * self.batch
        pixels = torch.randint(256, (number, self.size, self.size, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(NUM_CLASSES, (number,), generator=generator)
        self.batches = Batches(
            {"image": pixels}, {"label": labels}, batch_size=self.batch, device=self.device, shuffle=True
        )
        self.optim = OptimSpec(warmup_epochs=0)
        self.train = TrainSpec(epochs=10_000, batch_size=self.batch, precision=precision)
        self.loss_fn = classification_loss()
        self.one_pass = True

    def net(self) -> Any:
        options = {"img_size": self.size} if self.size else {}
        return timm.create_model(self.model, pretrained=False, num_classes=0, **options)

    def ours(self, model: Any, compiled: bool = False) -> Arm:
        """One epoch of this package's loop."""
        named = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
        schedule = Schedule(self.optim, self.train.epochs, len(self.batches))
        groups = param_groups(named, [], self.optim)
        places = model, self.loss_fn, groups, self.optim, self.train, schedule, self.device
        step = Step(*places, num_micro_batches=len(self.batches))
        stepping = Captured if not reason_against(self.train, self.batches) else Started
        arm = stepping(step, self.batches, self.train, Stopwatch(self.device))
        blocks = [site.module for site in model.backbone.sites("block")]
        run = Blocks(blocks, TrainSpec(compile=compiled))

        def epoch() -> None:
            step.begin()
            with in_one_pass(self.one_pass), run.in_training():
                arm.epoch(0)

        return epoch

    def two_steps(self, model: nn.Module) -> Callable[[tuple[int, ...]], None]:
        """The least loop, over batches that are ready on the device."""
        batches = list(islice(self.batches.epoch(0), 2))
        tensors = [tensor for tensor in model.parameters() if tensor.requires_grad]
        optimizer = torch.optim.AdamW(
            tensors, lr=1e-3, weight_decay=1e-4, fused=True, capturable=self.device.type == "cuda"
        )

        def steps(sizes: tuple[int, ...]) -> None:
            for batch in batches:
                with autocast(self.device, self.precision):
                    loss = F.cross_entropy(model(batch["image"]).float(), batch["label"])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        return steps

    def bare(self, model: nn.Module, own: bool = True) -> Arm:
        """As many steps of the least loop, by two, which are one graph on CUDA; `own`: gradients as in a cell."""
        steps = self.two_steps(model)
        graphs = Graphs(steps, self.device) if self.device.type == "cuda" else None

        def epoch() -> None:
            with in_one_pass(own and self.one_pass), graphs.running() if graphs else nullcontext():
                for _ in range(self.steps // 2):
                    (graphs or steps)(())

        return epoch

    def seconds(self, arm: Arm, repeats: int) -> float:
        """Of one step."""
        start = self._now()
        for _ in range(repeats):
            arm()
        return (self._now() - start) / (self.steps * repeats)

    def kept(self, model: nn.Module) -> int:
        batch = next(iter(self.batches.epoch(0)))
        return training_memory(model, self.loss_fn, batch, self.optim, self.precision)["saved_bytes"]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        # seconds of the processor: other work on the machine takes the clock, and hardly these
        return time.process_time()


def compared(bench: Bench, method: str, rounds: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """One row: medians of the arms."""
    seed_everything(0)
    model = with_method(bench.net(), method, bench.size).to(bench.device).train()
    hand = by_hand(bench.net(), method)
    arms = {"ours": bench.ours(model), "bare": bench.bare(model)}
    row: dict[str, Any] = {"method": method, "ours_kept_mb": bench.kept(model) / 1e6}
    if hand is not None:
        hand = hand.to(bench.device).train()
        arms["hand"] = bench.bare(hand, own=False)
        row["hand_kept_mb"] = bench.kept(hand) / 1e6
    if compiled:
        arms["compiled"] = bench.ours(model, compiled=True)
    for arm in arms.values():
        for _ in range(4 if bench.device.type == "cuda" else 1):
            arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        # forward and back again: what comes later in a round is not always the same
        for name, arm in list(arms.items())[:: 1 if number % 2 else -1]:
            times[name].append(1e3 * bench.seconds(arm, repeats))
    row |= {f"{name}_ms": statistics.median(found) for name, found in times.items()}
    for mine, other in (("ours", "bare"), ("ours", "hand"), ("compiled", "ours")):
        if mine not in times or other not in times:
            continue
        row[f"{mine}_over_{other}"] = statistics.median(
            first / second for first, second in zip(times[mine], times[other], strict=True)
        )
    return row


COLUMNS = ("device", "cpu", "threads", "torch", "model", "size", "batch", "precision", "method")
FIGURES = ("ours_ms", "bare_ms", "hand_ms", "ours_over_bare", "ours_over_hand", "ours_kept_mb", "hand_kept_mb")
COMPILED = ("compiled_ms", "compiled_over_ours")


def parser_of_steps(about: str | None) -> argparse.ArgumentParser:
    """What every benchmark of steps is told."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="vit_micro_patch4_32")
    parser.add_argument("--size", type=int, default=32, help="image side in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=0, help="of an epoch, an even number (16 on CUDA, else 2)")
    return parser


def measured_on(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the rows of one run share: the machine, and what was trained."""
    facts = machine(torch.device(arguments.device))
    shared = {"device": facts.get("gpu", arguments.device), "cpu": facts["cpu"], "threads": facts["threads"]}
    shared["torch"] = torch.__version__
    return shared | {name: getattr(arguments, name) for name in ("model", "size", "batch")}


def main() -> None:
    parser = parser_of_steps(__doc__)
    parser.add_argument("--methods", nargs="+", default=list(NAMES), help="or all")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=2, help="epochs of an arm in a round (%(default)s)")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="measure compiled blocks as well")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step.csv")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    shared = measured_on(arguments)
    methods = METHODS.names() if arguments.methods == ["all"] else arguments.methods
    new = not arguments.out.exists()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a", newline="", encoding="utf-8") as file, deterministic(arguments.device):
        writer = csv.DictWriter(file, [*COLUMNS, *FIGURES, *COMPILED])
        if new:
            writer.writeheader()
        for precision in arguments.precision:
            bench = Bench(arguments, precision)
            for method in methods:
                try:
                    row = compared(bench, method, arguments.rounds, arguments.repeats, arguments.compile)
                except Exception as error:
                    # one that does not run on this network, or at all, must not end the others
                    print(f"{method}: left out, {type(error).__name__}: {error}", flush=True)
                    continue
                writer.writerow(shared | {"precision": precision} | {k: _shown(v) for k, v in row.items()})
                file.flush()
                shown = ", ".join(f"{key} {_shown(row[key])}" for key in (*FIGURES, *COMPILED) if key in row)
                print(f"{precision} {method}: {shown}", flush=True)


def _shown(value: Any) -> Any:
    return f"{value:.3f}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
