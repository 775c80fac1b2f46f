"""The words of a command on one record: RECORD, where its inputs are, and the results folder."""

from __future__ import annotations

import argparse
from pathlib import Path


def record_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """The words of a command on one record: RECORD, where its inputs are, and the results folder."""
    parser = argparse.ArgumentParser(prog=f"peftbench {command}", description=(doc or "").partition(": ")[2])
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument(
        "options", nargs="*", help="where inputs are on this machine, e.g. dataset.root=DIR runtime.device=cpu"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    return parser
