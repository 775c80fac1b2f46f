"""`data show`: a contact sheet with class names, maps or texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftbench.cli.data.composed import divided
from peftbench.data.contact_sheet import contact_sheet, map_sheet, text_sheet
from peftbench.data.texted import TextedSplit
from peftbench.foundation.errors import BadInput, ConfigError


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    if arguments.per_class < 1:
        raise ConfigError([f"--per-class must be at least 1, got {arguments.per_class}"])
    config, _, _ = divided(arguments)
    source = config.dataset.open()
    split = arguments.split or source.whole_splits[2]
    if split not in source.splits:
        raise ConfigError([f"--split: this dataset has {', '.join(source.splits)}, not {split}"])
    images = source.split(split)
    if isinstance(images, TextedSplit):
        what = f"images and {next(iter(images.targets))}"
        sheet = text_sheet(images, source.class_names, arguments.per_class)
    else:
        what, draw = f"{source.num_classes} classes", map_sheet if images.maps else contact_sheet
        sheet = draw(images, source.class_names, arguments.per_class)
    path = arguments.out or Path(f"{config.dataset.label.replace('/', '_')}.png")
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror or error}); set --out") from error
    print(f"{path}: {what} of {config.dataset.label}, {split}")
    return 0
