"""`data list`: every dataset, whether it is ready, its size and where it is."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from peftbench.cli.data.sizes import size_of
from peftbench.config.choices import choices_of
from peftbench.config.datasets import shipped_dataset
from peftbench.data.base import DatasetSpec
from peftbench.data.standing import DOWNLOAD, MISSING, standing
from peftbench.foundation.errors import ConfigError, PeftbenchError, did_you_mean, printable
from peftbench.foundation.plugins import config_dir
from peftbench.foundation.spec import build
from peftbench.foundation.terminal import width_of


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    width = width_of(sys.stdout) or 160
    narrow = width < 110
    rows: list[tuple[str, ...]]
    rows = [("dataset", "state", "where") if narrow else ("dataset", "group", "state", "size", "where")]
    options = _dataset_options(arguments.options)
    known: set[str] = set()
    for name in choices_of(config_dir() / "dataset"):
        cls, values = shipped_dataset(name)
        fields = {field.name for field in dataclasses.fields(cls)}
        known |= fields
        spec = build(cls, values | {key: value for key, value in options.items() if key in fields})
        assert isinstance(spec, DatasetSpec)
        state = _state(spec)
        rows.append((name, *(_narrowed(*state) if narrow else (spec.group, *state))))
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError([f"unknown option dataset.{key}{did_you_mean(key, known)}" for key in unknown])
    print("\n".join(_lines(rows, width)))
    return 0


def _lines(rows: list[tuple[str, ...]], width: int) -> list[str]:
    """The rows under each other; what the last column has no room for goes on below it."""
    # not by a library of tables: its import would take longer than the list
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    room = max(width - sum(widths) - 2 * len(widths), 20)
    lines = []
    for *cells, last in rows:
        pieces = textwrap.wrap(printable(last), room, break_on_hyphens=False) or [""]
        head = "".join(f"{cell:{size}}  " for cell, size in zip(cells, widths, strict=True))
        lines += [f"{head}{pieces[0]}".rstrip(), *(" " * len(head) + piece for piece in pieces[1:])]
    return lines


def _dataset_options(words: list[str]) -> dict[str, Any]:
    problems = [
        f"'{word}' is not of the form dataset.option=value" for word in words if not word.startswith("dataset.")
    ]
    if problems:
        raise ConfigError(problems)
    if not words:
        return {}
    from peftbench.config.overrides import option_values  # imports Hydra

    return {key.removeprefix("dataset."): value for key, value in option_values(words).items()}


def _state(spec: DatasetSpec) -> tuple[str, str, str]:
    """State, size (on disk, or of the archives to get) and place of a dataset."""
    to_get = f"{spec.download_megabytes:,} MB to get" if spec.download_megabytes else ""
    found = standing(spec, sized=True)
    if found.problem is not None:
        return found.state, to_get if found.state == MISSING else "", _shortened(spec, found.problem)
    if found.state == DOWNLOAD:
        return found.state, to_get, "fetched at first use"
    if found.num_bytes is None:
        return found.state, "", "made by the package"
    return found.state, size_of(found.num_bytes), ", ".join(map(str, found.places[:2]))


def _narrowed(state: str, size: str, where: str) -> tuple[str, str]:
    """State with size, and place, for a terminal with little room: what a bracket adds is left out, home is `~`."""
    home = str(Path.home())
    where = where.partition(" (")[0].removesuffix(",")
    where = where.replace(f"{home}/", "~/") if home != "/" else where
    return f"{state} ({size.removesuffix(' to get')})" if size else state, where


def _shortened(spec: DatasetSpec, error: PeftbenchError) -> str:
    """The first statement of a message, without the name that the row begins with."""
    return re.split(r"[:;] |\. |\n", str(error).removeprefix(f"{spec.label}: "))[0]
