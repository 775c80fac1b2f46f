"""`data show`: a contact sheet with class names, maps or texts."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftbench.cli.data.composed import divided
from peftbench.cli.sheets import check_sheet, write_sheet
from peftbench.data.contact_sheet import contact_sheet, map_sheet, text_sheet
from peftbench.data.texted import TextedSplit
from peftbench.foundation.errors import ConfigError


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    config, _, _ = divided(arguments)
    path = arguments.out or Path(f"{config.dataset.label.replace('/', '_')}.png")
    source = config.dataset.open()
    check_sheet(path, config.dataset.kept_clear())
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
    write_sheet(sheet, path)
    print(f"{path}: {what} of {config.dataset.label}, {split}")
    return 0
