"""The words of commands: argparse's errors become ours, with the nearest right words."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from peftbench.foundation.errors import ConfigError, brief, did_you_mean
from peftbench.foundation.location import user_path

_PROGRAM = "python -m peftbench "
# the two spellings of the results folder: commands on records take the first, words of cells are the second
RESULTS_FLAG, RESULTS_WORD = "--results", "runtime.results"


class Arguments(argparse.ArgumentParser):
    """A parser of a command's words that raises `ConfigError` instead of ending the process."""

    @classmethod
    def of(cls, command: str, doc: str | None, epilog: str | None = None) -> Arguments:
        """The parser of a command, described by what its module says of itself behind the colon."""
        return cls(prog=f"{_PROGRAM}{command}", description=(doc or "").partition(": ")[2], epilog=epilog)

    def error(self, message: str) -> NoReturn:
        unknown = re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL)
        if unknown:
            first = unknown[1].split()[0] if unknown[1].split() else ""
            options = [name for name in self._known_options() if name.startswith("--")]
            hint = did_you_mean(first.partition("=")[0], options) if first.startswith("-") else f"; see {self.prog} -h"
            hint = self._results_hint(first.partition("=")[0]) or hint
            raise ConfigError([f"{self._command}: unknown words {brief(unknown[1])}{hint}"])
        raise ConfigError([f"{self._command}: {brief(message, 400)}; see {self.prog} -h"])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, and words may stand behind options, too: `data verify folder --deep dataset.root=DIR`."""
        commands = any(isinstance(action.choices, dict) for action in self._actions)
        if commands or self._between or "--" in (args or ()):
            return super().parse_known_args(args, namespace)
        # which asks this method again, in some versions of Python
        self._between = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._between = False

    _between = False

    def _results_hint(self, name: str) -> str:
        """How this command spells the results folder, for one that was named as others spell it."""
        if name == RESULTS_WORD and RESULTS_FLAG in self._option_string_actions:
            return f"; the results folder is written {RESULTS_FLAG} DIR"
        takes_words = any(action.dest == "words" for action in self._actions)
        return results_hint(name) if takes_words else ""

    @property
    def _command(self) -> str:
        return self.prog.removeprefix(_PROGRAM)

    def _known_options(self) -> list[str]:
        """This parser's options and those of its commands, which leave what they do not know to it."""
        names = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action.choices, dict):
                names += [name for parser in action.choices.values() for name in parser._option_string_actions]
        return names


def results_hint(name: str) -> str:
    """How the words of cells spell the results folder, for `--results`; "" for other names."""
    return f"; the results folder is written {RESULTS_WORD}=DIR" if name == RESULTS_FLAG else ""


def a_folder(named: str) -> Path:
    """A folder that is there or may be made."""
    path = user_path(_named(named), "the path")
    if path.is_file():
        raise argparse.ArgumentTypeError(f"{brief(named)} is a file, a folder is needed")
    return path


def a_file(named: str) -> Path:
    """A file that is there or may be made."""
    path = user_path(_named(named), "the path")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{brief(named)} is a folder, a file is needed")
    return path


def a_png(named: str) -> Path:
    """A file of that ending that is there or may be made."""
    path = a_file(named)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"a PNG is written, whose name ends in .png, got {brief(named)}")
    return path


def a_csv(named: str) -> Path:
    """A file of that ending that is there or may be made."""
    path = a_file(named)
    if path.suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"CSV is written, to a name that ends in .csv, got {brief(named)}")
    return path


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {brief(text)}")
    return int(text)


def days(text: str) -> float:
    """A number of days, not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"a number of days of at least 0 is needed, got {brief(text)}")
    return value


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text
