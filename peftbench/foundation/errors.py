"""Errors a user can meet. Each carries one message that says what is wrong and what to do, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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
    """Data or weights that are not here: says what, how large, where from, and which option points to it."""

    exit_code = 2


class BadInput(PeftbenchError):
    """A file that is here but cannot be used (corrupt, wrong kind, wrong count)."""

    exit_code = 2


class NotApplicable(PeftbenchError):
    """The method has no meaning on this backbone; known before any training."""

    exit_code = 3


class TrainingDiverged(PeftbenchError):
    """The loss stopped being a finite number."""


class RecordError(PeftbenchError):
    """A record cannot be read, written or reproduced."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` with at most three close names, else `; known: ...` when the list is short."""
    names = sorted(set(known))
    near = get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    return f"; known: {', '.join(names)}" if names else ""
