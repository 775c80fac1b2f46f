"""How many JPEG files a second one core turns into pixels for a model, which is what streaming a large set asks for.

    python benchmarks/decode.py [--width 500 --height 375] [--size 224]

The two photographs of scikit-learn, cut to that size and encoded at quality 90, are decoded again and again:

    pillow        decoded as every cell does it
    torchvision   decoded by `torchvision.io.decode_jpeg`, and whether its pixels are the same
    streamed      a streamed split's whole way: read, decode, resize to `--size`, one batch array
    workers       the same through worker processes, as training has it; by the clock as well

Images per second of the processor, workers included: a machine with more free cores does so many times as many.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from rows import append

from peftbench.cells.provenance import machine
from peftbench.data.pixels.decode import decode_image
from peftbench.data.pixels.stream import StreamedImages
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.shipped import of_scikit_learn
from peftbench.data.splits import FileSplit
from peftbench.train.readers import read_ahead


def photographs(width: int, height: int) -> list[bytes]:
    found = []
    for name in ("china.jpg", "flower.jpg"):
        with Image.open(of_scikit_learn("images", name)) as photograph:
            cut = photograph.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        cut.save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def rates(work: Callable[[], object], num_images: int, rounds: int) -> tuple[float, float]:
    """Images per second of the processor and by the clock: medians over rounds."""
    taken = []
    for _ in range(rounds):
        before = os.times()
        work()
        after = os.times()
        taken.append((sum(after[:4]) - sum(before[:4]), after.elapsed - before.elapsed))
    processor, clock = (num_images / statistics.median(found) for found in zip(*taken, strict=True))
    return processor, clock


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--size", type=int, default=224, help="side of the decoded square (%(default)s)")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decode.csv")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    files = photographs(asked.width, asked.height)
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    same = all(
        np.array_equal(np.asarray(decode_image(data, "photograph")), of_torchvision(tensor))
        for data, tensor in zip(files, tensors, strict=True)
    )
    half, num = asked.images // 2, asked.images // 2 * 2
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(2)]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        split = FileSplit(paths * half, np.zeros(num, dtype=np.int64))
        reader = StreamedImages(split, ImageTransform(asked.size, "crop", "bicubic"))
        batches = list(torch.arange(num).split(64))
        works: dict[str, Callable[[], object]] = {
            "pillow": lambda: [np.asarray(decode_image(data, "photograph")) for data in files * half],
            "torchvision": lambda: [of_torchvision(tensor) for tensor in tensors * half],
            "streamed": lambda: list(read_ahead(reader, batches, {}, 0)),
            "workers": lambda: list(read_ahead(reader, batches, {}, asked.workers)),
        }
        found = {name: rates(work, num, asked.rounds) for name, work in works.items()}
    row = {
        "cpu": machine(torch.device("cpu"))["cpu"],
        "pillow_version": PIL.__version__,
        "torchvision_version": torchvision.__version__,
        "picture": f"{asked.width}x{asked.height}",
        "kilobytes": f"{sum(map(len, files)) / 2000:.0f}",
        "size": asked.size,
        "torchvision_same_pixels": same,
    }
    row |= {f"{name}_per_s": f"{processor:.0f}" for name, (processor, _) in found.items()}
    row |= {"num_workers": asked.workers, "workers_by_clock_per_s": f"{found['workers'][1]:.0f}"}
    append(asked.out, row)


def of_torchvision(data: torch.Tensor) -> np.ndarray:
    decoded: np.ndarray = torchvision.io.decode_jpeg(data).permute(1, 2, 0).numpy()
    return decoded


if __name__ == "__main__":
    main()
