"""`data cache`: what the image cache holds, and its cleaning."""

from __future__ import annotations

import argparse

from peftbench.cli.data.sizes import size_of
from peftbench.data.pixels.entry import Listed, listed, prune
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.location import default_cache_dir


def main(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    if arguments.unused_days is not None and not arguments.prune:
        raise ConfigError(["--unused-days goes with --prune"])
    folder = default_cache_dir() / "images"
    entries = prune(folder, arguments.unused_days) if arguments.prune else listed(folder)
    for entry in entries:
        print(_entry_line(entry))
    total = size_of(sum(entry.num_bytes for entry in entries))
    print(f"{'removed ' if arguments.prune else ''}{len(entries)} entries, {total}, in {folder}")
    return 0


def _entry_line(entry: Listed) -> str:
    about = entry.about
    what = (
        f"{about.get('split', '')} {about.get('transform', '')} {about.get('shape', '')}"
        if about
        else "left half-built"
    )
    unread = "" if entry.reachable or not about else ", made by other versions"
    return f"{entry.key[:12]}  {size_of(entry.num_bytes):>10}  {what}{unread}"
