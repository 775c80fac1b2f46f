"""What keeping frozen work spares: a training step of the whole model, and of what is left of it, in one run.

    python benchmarks/frozen.py [--methods linear,lst,...] [--model vit_small_patch14_dinov2] [--size 224] [--batch 16]

Weights and images are random: time does not depend on them. Times are processor seconds on one thread, which other
work on the machine disturbs little. `ratio` is the time of a training of `--epochs` epochs of `--images` images with
everything frozen computed once, checks included, over that of the same training without. Rows are added to
`results/frozen.csv`.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

import peftbench.backbones.vit_micro  # noqa: F401  registers the embedded model with timm
from peftbench.backbones.build import from_timm
from peftbench.cells.provenance import machine
from peftbench.methods.base import METHODS, install
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier
from peftbench.train.batches import Batches
from peftbench.train.frozen import frozen_work
from peftbench.train.replay import Replay, kept_values, repeats

METHOD_NAMES = "linear,partial_k,block_only,vqt,lst,last,e3va,dtl,lora"


def seconds(work: Callable[[], object], times: int) -> float:
    """The median processor time of a call, after one that is not counted."""
    work()
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHOD_NAMES)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frozen.csv")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shared = {"cpu": machine(torch.device("cpu"))["cpu"], "torch": torch.__version__}
    shared |= {option: getattr(asked, option) for option in ("model", "size", "batch", "epochs", "images")}
    new = not asked.out.exists()
    with asked.out.open("a", newline="", encoding="utf-8") as file:
        for name in asked.methods.split(","):
            row = shared | measured(name, asked)
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
                new = False
            writer.writerow(row)
            file.flush()
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def measured(name: str, asked: argparse.Namespace) -> dict[str, str]:
    net = timm.create_model(asked.model, num_classes=0, img_size=asked.size)
    backbone = from_timm(net, asked.size)
    install(METHODS.get(name)(), backbone)
    model = Classifier(backbone, 100, seed=0).train()
    shape = (3, asked.size, asked.size)
    work = frozen_work(model, (torch.zeros(3, *shape),))
    data = {"image": torch.randn(asked.batch, *shape)}, {"label": torch.zeros(asked.batch, dtype=torch.int64)}
    batches = Batches(*data, batch_size=asked.batch)
    values = [torch.empty(asked.batch, *call.packed_shape, dtype=call.dtype) for call in work.kept]
    replay = Replay(model, work, {"image": shape})
    tensors = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(tensors, lr=1e-4, fused=True)
    rest = Batches(
        {**(data[0] if replay.read else {}), **dict(zip(replay.kept, values, strict=True))},
        data[1],
        batch_size=asked.batch,
    )

    def step(module: torch.nn.Module, inputs: tuple[str, ...], of: Batches) -> None:
        loss_fn = classification_loss(0.0, inputs)
        for batch in of.epoch(0):
            loss_fn(module, batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    once = seconds(lambda: kept_values(model, work.kept, batches, "fp32", values), 1)
    equal = repeats(replay, batches, "fp32", values)
    whole = seconds(lambda: step(model, ("image",), batches), asked.times)
    left = seconds(lambda: step(replay, replay.inputs, rest), asked.times)
    num = -(-asked.images // asked.batch)
    # five batches are compared, each in two passes
    with_kept = num * once + 10 * once + asked.epochs * num * left
    ratio = with_kept / (asked.epochs * num * whole)
    numbers = {"share": work.share, "mb_per_image": work.bytes_per_sample / 1e6}
    numbers |= {"whole_ms": 1000 * whole, "rest_ms": 1000 * left, "once_ms_per_batch": 1000 * once}
    shown = {key: f"{number:.3g}" for key, number in numbers.items()}
    return {"method": name, **shown, "equal": str(equal), "ratio": f"{ratio:.3f}"}


if __name__ == "__main__":
    main()
