"""Errors a user can meet. Each carries one message that says what is wrong and what to do, and an exit code."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# a longer list of names is no hint
_MOST_KNOWN = 80
# control, format (directions, joiners), surrogates, line and paragraph separators
_UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class PeftbenchError(Exception):
    """Base of every error that is shown to the user as one message, without a traceback."""

    exit_code = 1


class ConfigError(PeftbenchError):
    """The configuration is wrong. Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class MissingInput(PeftbenchError):
    """Data or weights that are not here: says what, how large, where from, and which option points to it.

    The first line says what is absent and, where it differs from one data set to the next, what to get. `advice` holds
    the lines that are the same for all data sets of a kind, so that a list of them says it once (`said_once`).
    `instead` names another choice, which needs nothing; it ends the message, on a line of its own unless `same_line`.
    """

    exit_code = 2

    def __init__(self, what: str, *advice: str, instead: str = "", same_line: bool = False) -> None:
        super().__init__(what, *advice)
        self.what, self.advice, self.instead = what, advice, instead
        self._before_instead = " " if same_line else "\n"

    def __str__(self) -> str:
        said = "\n".join([self.what, *self.advice])
        return f"{said}{self._before_instead}{self.instead}" if self.instead else said

    def of_record(self) -> MissingInput:
        """The same where a record has settled the choice, so that no other can be taken instead."""
        return MissingInput(self.what, *self.advice)


@contextmanager
def settled_by_a_record() -> Iterator[None]:
    """Within this a record has settled the choices: a `MissingInput` names none to take instead."""
    try:
        yield
    except MissingInput as error:
        raise error.of_record() from error


class BadInput(PeftbenchError):
    """A file that is here but cannot be used (corrupt, wrong kind, wrong count)."""

    exit_code = 2


class NotApplicable(PeftbenchError):
    """The method has no meaning on this backbone; known before any training."""

    exit_code = 3


class TrainingDiverged(PeftbenchError):
    """The loss stopped being a finite number."""


class DeviceLost(PeftbenchError):
    """The GPU gives no more answers in this process; another process can go on."""


class LoggingUnavailable(PeftbenchError):
    """The service that was asked to log cannot be reached or is not installed: says nothing about any cell."""

    exit_code = 2


class RecordError(PeftbenchError):
    """A record cannot be read, written or reproduced."""


class AlreadyRecorded(RecordError):
    """Another worker recorded the same cell first."""


class HeldPacked(RecordError):
    """A cell is to be measured again whose record is packed: packs are never changed by a run."""


def said_once(messages: Iterable[str]) -> list[str]:
    """The first lines of messages, one for each, then the lines behind them; whatever is repeated once."""
    parts = [message.split("\n") for message in messages]
    first = [lines[0] for lines in parts]
    return list(dict.fromkeys([*first, *(line for lines in parts for line in lines[1:])]))


def error_line(error: object) -> str:
    """The one form in which every command, and every worker, names what stopped it."""
    return f"peftbench: {printable(str(error))}"


def brief(text: object, limit: int = 120) -> str:
    """A value as a message shows it: on one line, without control characters, long ones with their middle left out."""
    shown = printable(str(text)).replace("\n", "\\n")
    return shown if len(shown) <= limit else f"{shown[: limit // 2]}...{shown[-limit // 4 :]}"


def file_of(cls: type) -> str:
    """The file that a class comes from, or its module's name where that has none."""
    return str(getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__)


def printable(text: str) -> str:
    """`text` without what would command a terminal: control and direction characters appear as their escapes."""
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if unicodedata.category(sign) in _UNSHOWN else sign for sign in text)


def _escaped(sign: str) -> str:
    return sign if sign == "\n" else sign.encode("unicode_escape").decode()


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean 'x'?` with at most three close names, else `; known: ...` when the list is short.

    `otherwise` is said behind it where no name is close.
    """
    names = sorted(set(known))
    # whoever writes LoRA means lora
    near = [name for name in names if name.lower() == word.lower()]
    if near := near or get_close_matches(word, names, n=3, cutoff=0.6):
        return "; did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    return (f"; known: {', '.join(names)}" if names and len(names) <= _MOST_KNOWN else "") + otherwise
