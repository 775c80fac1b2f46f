"""`data prepare`: download what can be downloaded and fill the image cache."""

from __future__ import annotations

import argparse
import dataclasses

from peftbench.cli.data.composed import composed
from peftbench.cli.data.sizes import size_of
from peftbench.config.choices import choices_of
from peftbench.config.datasets import shipped_dataset
from peftbench.data.base import SPLITS, DatasetSpec
from peftbench.data.pixels.cache import load_split
from peftbench.foundation.plugins import config_dir
from peftbench.foundation.progress import Progress


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    # asking for it is leave to download, unless the words say otherwise
    if not any(word.startswith("dataset.download=") for word in arguments.options):
        cls, _ = shipped_dataset(arguments.dataset) if _is_choice(arguments.dataset) else (DatasetSpec, {})
        if "download" in {field.name for field in dataclasses.fields(cls)}:
            arguments.options = ["dataset.download=true", *arguments.options]
    config, runtime = composed(arguments)
    from peftbench.backbones.build import input_spec
    from peftbench.cells.data import image_transform
    from peftbench.cells.shared import opened

    progress = Progress(runtime.progress)
    source = opened(config).source
    for note in source.notes:
        progress.say(note)
    transform = image_transform(input_spec(config.backbone), config.protocol)
    cache_dir = runtime.cache_root
    asked = (config.protocol.train_split, config.protocol.val_split, "test")
    # a run on VTAB's splits is tuned on their parts: all four are needed sooner or later
    wanted = SPLITS if config.protocol.train_split in SPLITS else [name for name in asked if name]
    names = [name for name in wanted if not (arguments.no_test and name == "test")]
    for name in names:
        split = load_split(source, name, transform, cache_dir, progress.counted)
        size = size_of(split.images.nbytes)
        print(f"{name}: {len(split):,} images, {size}, {transform.key()}, {split.digest[:16]}")
    print(f"{config.dataset.label}: ready ({source.membership}, pixels {source.pixels}, test {source.test})")
    return 0


def _is_choice(name: str) -> bool:
    return name in choices_of(config_dir() / "dataset")
