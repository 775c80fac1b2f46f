"""The words of a command on one record: RECORD, where its inputs are, and the results folder."""

from __future__ import annotations

from pathlib import Path

from peftbench.cli.arguments import Arguments, a_folder


def record_parser(command: str, doc: str | None) -> Arguments:
    """The words of a command on one record: RECORD, where its inputs are, and the results folder."""
    parser = Arguments.of(command, doc)
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument(
        "options", nargs="*", help="where inputs are on this machine, e.g. dataset.root=DIR runtime.device=cpu"
    )
    parser.add_argument("--results", type=a_folder, default=Path("results"), help="results folder (default: results)")
    return parser
