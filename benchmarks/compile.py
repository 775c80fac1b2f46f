"""What `train.compile=true` costs once and gains in each step, beside the same blocks as they are.

    python benchmarks/compile.py [--model NAME --size PX] [--methods lora ssf ...] [--precision fp32 bf16]

For each method two processes run one after the other: the first with an empty cache on disk, the second with what the
first left there. In each the first compiled step is timed, less a step as it is: by the clock, by this process's
seconds of the processor, and by those of the compiler's processes. Then compiled and plain steps take turns; medians of
seconds of the processor (of the device, on CUDA) and of their ratio are written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from by_hand import NAMES
from rows import append
from step import NUM_CLASSES, measured_on, parser_of_steps, with_method
from torch import nn

from peftbench.foundation.seeding import deterministic, seed_everything
from peftbench.foundation.unbinding import in_one_pass
from peftbench.tasks.classification import classification_loss
from peftbench.train.blocks import Blocks
from peftbench.train.options import TrainSpec
from peftbench.train.precision import autocast


class Trained:
    """Steps of one model, with its blocks compiled or as they are."""

    def __init__(self, model: Any, arguments: argparse.Namespace, compiled: bool) -> None:
        self.model, self.device, self.precision = model, torch.device(arguments.device), arguments.precision
        blocks = [site.module for site in model.backbone.sites("block")]
        self.blocks = Blocks(blocks, TrainSpec(compile=compiled))
        self.loss_fn = classification_loss()
        generator = torch.Generator().manual_seed(0)
        self.batch = {
            "image": torch.randn(arguments.batch, 3, arguments.size, arguments.size, generator=generator),
            "label": torch.randint(NUM_CLASSES, (arguments.batch,), generator=generator),
        }
        self.batch = {name: values.to(self.device) for name, values in self.batch.items()}
        tensors = [tensor for tensor in model.parameters() if tensor.requires_grad]
        self.optimizer = torch.optim.AdamW(tensors, lr=1e-3, fused=True)

    def step(self) -> None:
        with self.blocks.in_training():
            with autocast(self.device, self.precision):
                loss = self.loss_fn(self.model, self.batch)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def now(device: str) -> tuple[float, float, float]:
    """The clock, this process's seconds of the processor, and those of processes that it started and that ended."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    # os.times counts in hundredths of a second, too coarse for a step
    children = os.times()
    return time.perf_counter(), time.process_time(), children.children_user + children.children_system


def measured(arguments: argparse.Namespace) -> dict[str, float]:
    """In a process of its own: the first compiled step, then plain and compiled ones in turn."""
    import timm

    import peftbench.backbones.vit_micro  # noqa: F401  registers the embedded model with timm

    seed_everything(0)
    options = {"img_size": arguments.size} if arguments.size else {}
    net = timm.create_model(arguments.model, pretrained=False, num_classes=0, **options)
    model: nn.Module = with_method(net, arguments.methods[0], arguments.size).to(arguments.device).train()
    plain, compiled = (Trained(model, arguments, compiled) for compiled in (False, True))
    clock = 1 if arguments.device == "cpu" else 0
    with deterministic(arguments.device), in_one_pass():
        plain.step()
        start = now(arguments.device)
        plain.step()
        between = now(arguments.device)
        compiled.step()
        end = now(arguments.device)
        spent = [(c - b) - (b - a) for a, b, c in zip(start, between, end, strict=True)]
        times: dict[str, list[float]] = {"plain": [], "compiled": []}
        for _ in range(arguments.rounds):
            for name, arm in (("plain", plain), ("compiled", compiled)):
                before = now(arguments.device)[clock]
                arm.step()
                times[name].append(1e3 * (now(arguments.device)[clock] - before))
    ratios = [a / b for a, b in zip(times["compiled"], times["plain"], strict=True)]
    found = {"clock_s": spent[0], "own_cpu_s": spent[1], "others_cpu_s": max(spent[2], 0.0)}
    medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
    return found | medians | {"compiled_over_plain": statistics.median(ratios)}


def in_a_process(arguments: argparse.Namespace, method: str, precision: str, cache: str) -> dict[str, float]:
    words = [sys.executable, __file__, "--alone", "--methods", method, "--precision", precision]
    for name in ("device", "model", "size", "batch", "rounds"):
        words += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    answer = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return found


def main() -> None:
    parser = parser_of_steps(__doc__)
    parser.add_argument("--methods", nargs="+", default=[name for name in NAMES if name != "linear"])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "compile.csv")
    arguments = parser.parse_args()
    if arguments.alone:
        arguments.precision = arguments.precision[0]
        print(json.dumps(measured(arguments)))
        return
    shared = measured_on(arguments)
    for precision in arguments.precision:
        for method in arguments.methods:
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    figures = in_a_process(arguments, method, precision, cache)
                    row = shared | {"precision": precision, "method": method, "cache": state}
                    row |= {name: f"{value:.3f}" for name, value in figures.items()}
                    append(arguments.out, row)


if __name__ == "__main__":
    main()
