"""The words of a command on one record: RECORD, where its inputs are, and the results folder."""

from __future__ import annotations

from pathlib import Path

from peftbench.cli.arguments import RESULTS_WORD, Arguments, a_folder
from peftbench.config.overrides import option_values
from peftbench.foundation.location import user_path


def record_parser(command: str, doc: str | None) -> Arguments:
    """The words of a command on one record: RECORD, where its inputs are, and the results folder."""
    parser = Arguments.of(command, doc)
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument(
        "options",
        nargs="*",
        default=[],
        help="where inputs are on this machine, e.g. dataset.root=DIR runtime.device=cpu",
    )
    parser.add_argument("--results", type=a_folder, help="results folder (default: results)")
    return parser


def results_folder(named: Path | None, options: list[str]) -> Path:
    """Where a record is looked for: what --results names, else `runtime.results` among the options, else `results`.

    Raises `ConfigError` for a word that cannot be read.
    """
    if named is not None:
        return named
    said = option_values(word for word in options if word.startswith(f"{RESULTS_WORD}="))
    return user_path(str(said.get(RESULTS_WORD, "results")), RESULTS_WORD)
