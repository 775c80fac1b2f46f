"""Epoch time with the pixel cache against the usual way, on the 1,000 training images of a VTAB task at 224 px.

The usual way is that of the published code bases: a map-style data set that opens each JPEG with Pillow, torchvision
transforms (resize, to tensor, normalise) and a DataLoader with worker processes. Both arms run in turn in one process
and hand over the same float batches; no model runs. Ratios are medians over rounds.

    python benchmarks/cache.py --root <folder of task folders> --task caltech101
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from peftbench.cells.provenance import machine, versions
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.splits import FileSplit
from peftbench.data.vtab.folder import VtabFolder
from peftbench.foundation.cores import available_cores
from peftbench.train.batches import Batches

SIZE, BATCH = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class JpegFiles(Dataset[tuple[torch.Tensor, int]]):
    """Opens and transforms one file at a time."""

    def __init__(self, split: FileSplit) -> None:
        self.split = split
        self.transform = transforms.Compose(
            [
                transforms.Resize((SIZE, SIZE), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.split.paths[index]) as image:
            return self.transform(image.convert("RGB")), int(self.split.labels[index])


def seconds_of(batches: Iterable[object]) -> tuple[float, float]:
    """Wall and processor seconds of one pass; those of worker processes count, which have ended by then."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    for _ in batches:
        pass
    return time.perf_counter() - start, sum(os.times()[:4]) - before


def medians(rounds: list[tuple[float, float]]) -> dict[str, float]:
    """Of the seconds of both arms and of their ratio, round by round."""
    return {
        "cached_epoch_seconds": statistics.median(first for first, _ in rounds),
        "loader_epoch_seconds": statistics.median(second for _, second in rounds),
        "ratio": statistics.median(second / first for first, second in rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", required=True, help="folder of task folders, as dataset.root")
    parser.add_argument("--task", default="caltech101")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cache.json")
    arguments = parser.parse_args()
    source = VtabFolder(task=arguments.task, root=arguments.root).open()
    split = source.split("train800val200")
    assert isinstance(split, FileSplit)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cached = load_split(source, "train800val200", ImageTransform(SIZE), Path(folder))
        build_seconds = time.perf_counter() - start
        disk_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        ours = Batches(cached.inputs, cached.targets, batch_size=BATCH, mean=MEAN, std=STD, shuffle=True)
        loader = DataLoader(JpegFiles(split), batch_size=BATCH, shuffle=True, num_workers=arguments.workers)
        check_equal(ours, split)
        rounds = [(seconds_of(ours.epoch(r)), seconds_of(loader)) for r in range(arguments.rounds)]
    result = {
        "task": arguments.task,
        "num_images": len(split),
        "size": SIZE,
        "batch_size": BATCH,
        "workers": arguments.workers,
        "rounds": arguments.rounds,
        # on a machine with other work, processor time compares better than the clock
        "wall": medians([(first[0], second[0]) for first, second in rounds]),
        "processor": medians([(first[1], second[1]) for first, second in rounds]),
        "build_seconds": build_seconds,
        "cache_bytes": disk_bytes,
        "jpeg_bytes": sum(path.stat().st_size for path in split.paths),
        "load_average": os.getloadavg()[0],
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in list(result)[:-2]}, indent=1))


def check_equal(ours: Batches, split: FileSplit) -> None:
    """Both arms must give the same pixels, else their times do not compare."""
    batch = next(iter(ours.epoch(0)))
    usual = JpegFiles(split)
    for place in (0, 7):
        image, label = usual[int(batch["index"][place])]
        assert label == int(batch["label"][place])
        np.testing.assert_allclose(image.numpy(), batch["image"][place].numpy(), atol=1e-5)


if __name__ == "__main__":
    main()
