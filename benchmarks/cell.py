"""A whole cell here against the pipeline of the published code bases: JPEG files to a test accuracy.

    python benchmarks/cell.py [--device cuda] [--model NAME --size PX] [--method lora] [--epochs 10] [--test-every 1]

Both train LoRA (or a linear head) on the same JPEG files, drawn for the purpose, and measure a test split at the end.

    ours    `run_cell`, from planning to the record in the store, with an empty cache of decoded images; fp32 and bf16,
            the last block as `--last-block` says
    field   a map-style data set with Pillow and torchvision, a DataLoader with workers, the method written by hand, in
            fp32; the test split is gone over in every epoch (VPT's trainer, which goes over two splits) or in every
            tenth (the loops of PETL-ViT)

What the field does was read in github.com/KMnP/vpt (src/engine/trainer.py) and github.com/JieShibo/PETL-ViT
(FacT/fact_tt.py, FacT/vtab.py): neither casts to bf16, and the second decodes and resizes every image anew in every
epoch. Of VPT one of its two splits is counted here. Each arm runs in turn in this process, imports done. Medians of
seconds and of the ratio in a round are written: by the clock, and of the processor, workers included, which other work
on the machine disturbs less. With `--alone` the field is left out, and its columns are empty.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from by_hand import NAMES, by_hand
from PIL import Image
from rows import append
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from peftbench.cells.cell import plan
from peftbench.cells.provenance import machine
from peftbench.cells.run import run_cell
from peftbench.config.compose import by_hydra
from peftbench.config.gate import register_schemas, to_run_config
from peftbench.foundation.device import pick_device
from peftbench.foundation.progress import Progress
from peftbench.records.store import Store
from peftbench.train.options import LAST_BLOCKS

CLASSES = 10
Pair = tuple[float, float]


def draw_files(root: Path, side: int, splits: dict[str, int]) -> None:
    """JPEGs of random coloured squares, `root/split/class/number.jpg`; `splits`: how many of each class."""
    randomness = np.random.default_rng(0)
    for split, number in splits.items():
        for label in range(CLASSES):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for index in range(number):
                small = randomness.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                picture = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
                picture.save(folder / f"{index}.jpg", quality=90)


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Opens and transforms one file at a time, as the field does."""

    def __init__(self, root: Path, size: int) -> None:
        self.paths = sorted(root.rglob("*.jpg"))
        steps = [transforms.Resize((size, size), interpolation=3), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize((0.5,) * 3, (0.5,) * 3)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path = self.paths[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), int(path.parent.name.removeprefix("class_"))


def seconds(work: Callable[[Path], None], root: Path) -> Pair:
    """Of the clock and of the processor, processes that have ended included."""
    start, before = time.perf_counter(), os.times()
    work(root)
    after = os.times()
    return time.perf_counter() - start, sum(after[:4]) - sum(before[:4])


def field(arguments: argparse.Namespace, root: Path) -> None:
    """The hand-written pipeline."""
    device = torch.device(arguments.device)
    net = timm.create_model(arguments.model, pretrained=False, num_classes=0, img_size=arguments.size)
    model = by_hand(net, arguments.method)
    assert isinstance(model, nn.Module), "this method is not written by hand"
    model.to(device)
    options: dict[str, Any] = {"batch_size": arguments.batch, "num_workers": arguments.workers}
    train = DataLoader(Files(root / "train", arguments.size), shuffle=True, **options)
    test = DataLoader(Files(root / "test", arguments.size), **options)
    optimizer = torch.optim.AdamW([tensor for tensor in model.parameters() if tensor.requires_grad], lr=1e-3)
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        for images, labels in train:
            F.cross_entropy(model(images.to(device)), labels.to(device)).backward()
            optimizer.step()
            optimizer.zero_grad()
        if epoch % arguments.test_every and epoch < arguments.epochs:
            continue
        model.eval()
        with torch.no_grad():
            hits = sum((model(images.to(device)).argmax(1).cpu() == labels).sum() for images, labels in test)
        assert hits >= 0


def ours(arguments: argparse.Namespace, root: Path, precision: str, last_block: str) -> None:
    """The same cell here."""
    with tempfile.TemporaryDirectory() as results, tempfile.TemporaryDirectory() as cache:
        words = [
            f"method={arguments.method}",
            "dataset=folder",
            "protocol=full",
            f"dataset.root={root}",
            f"backbone.model={arguments.model}",
            "backbone.weights=none",
            f"backbone.img_size={arguments.size}",
            f"train.epochs={arguments.epochs}",
            f"train.batch_size={arguments.batch}",
            f"train.precision={precision}",
            f"train.last_block={last_block}",
            "optim.warmup_epochs=0",
            f"runtime.device={arguments.device}",
            f"runtime.results={results}",
            f"runtime.cache={cache}",
        ]
        config, runtime = to_run_config(by_hydra(words))
        run_cell(plan(config), runtime, Store(Path(results)), Progress(False))


def begin(device: torch.device) -> None:
    """What a GPU does once a process, its libraries read and set up, so that no arm pays for it."""
    if device.type == "cuda":
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 8)).to(device)
        net(torch.zeros(2, 3, 8, 8, device=device)).sum().backward()
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="vit_micro_patch4_32")
    parser.add_argument("--size", type=int, default=32, help="image side in pixels (%(default)s)")
    parser.add_argument("--side", type=int, default=300, help="side of the files in pixels (%(default)s)")
    parser.add_argument("--method", default="lora", choices=NAMES)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], help="of the cells here")
    parser.add_argument("--last-block", nargs="+", default=["all"], choices=LAST_BLOCKS, help="of the cells here")
    parser.add_argument("--test-every", type=int, default=10, help="epochs between tests of the field (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--train", type=int, default=16, help="training images of each of ten classes (%(default)s)")
    parser.add_argument("--test", type=int, default=16, help="test images of each class (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the field's pipeline")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cell.csv")
    arguments = parser.parse_args()
    register_schemas()
    # ahead of the first product, which settles how cuBLAS works
    begin(pick_device(arguments.device, "--device"))
    with tempfile.TemporaryDirectory() as folder:
        draw_files(Path(folder), arguments.side, {"train": arguments.train, "test": arguments.test})
        root, works = Path(folder), {} if arguments.alone else {"field": partial(field, arguments)}
        kinds = {
            precision + ("" if last == "all" else f", last block {last}"): (precision, last)
            for precision in arguments.precision
            for last in arguments.last_block
        }
        for kind, (precision, last) in kinds.items():
            works[kind] = partial(ours, arguments, precision=precision, last_block=last)
        rounds = [{name: seconds(work, root) for name, work in works.items()} for _ in range(arguments.rounds)]
    facts = machine(torch.device(arguments.device))
    shared = {
        "device": facts.get("gpu", arguments.device),
        "cpu": facts["cpu"],
        "threads": facts["threads"],
        "torch": torch.__version__,
        "train_images": arguments.train * CLASSES,
        "test_images": arguments.test * CLASSES,
    }
    shared |= {name: getattr(arguments, name) for name in ("side", "model", "size", "method", "epochs", "batch")}
    shared["test_every"] = arguments.test_every
    for kind in kinds:
        row = shared | {"precision": kind}
        for place, unit in enumerate(("s", "cpu_s")):
            took = {name: [found[name][place] for found in rounds] for name in works}
            row[f"ours_{unit}"] = f"{statistics.median(took[kind]):.2f}"
            row[f"field_{unit}"] = row[f"ours_over_field_{unit}"] = ""
            if not arguments.alone:
                ratios = [first / second for first, second in zip(took[kind], took["field"], strict=True)]
                row[f"field_{unit}"] = f"{statistics.median(took['field']):.2f}"
                row[f"ours_over_field_{unit}"] = f"{statistics.median(ratios):.3f}"
        append(arguments.out, row)


if __name__ == "__main__":
    main()
