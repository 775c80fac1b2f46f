"""The words of a command on one record: RECORD, where its inputs are, and the results folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path

from peftbench.cli.arguments import RESULTS_WORD, Arguments, a_folder
from peftbench.config.overrides import option_values
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.location import user_path

DEVICE = "runtime.device"
# of `runtime`, what finds a record, what also measures it again, and what also trains it again
FINDING = (RESULTS_WORD,)
MEASURING = (
    DEVICE,
    *(f"runtime.{name}" for name in ("threads", "matmul", "attention_grad", "workers", "stream_above_gb", "progress")),
    "runtime.cache",
    *FINDING,
)
TRAINING = (*MEASURING, "runtime.feature_cache", "runtime.capture")


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


def refuse_unused(command: str, options: Sequence[str], used: Collection[str], within: str = "runtime.") -> None:
    """Raises `ConfigError` for every option `within` a section ("": of any) that is none of those `used`.

    What a record's cell is made of is checked where the record is restored.
    """
    unused = [name for name in option_values(options) if name.startswith(within) and name not in used]
    if unused:
        raise ConfigError([f"{command}: nothing uses {name}{_nearest(name, used)}" for name in unused])


def _nearest(name: str, used: Collection[str]) -> str:
    """`; did you mean ...?` by what stands behind the section, which all may share; else what is used."""
    by_option = {known.rpartition(".")[2]: known for known in used}
    near = get_close_matches(name.rpartition(".")[2], by_option, n=1, cutoff=0.6)
    return f"; did you mean {by_option[near[0]]}?" if near else f"; it takes {', '.join(used)}"
