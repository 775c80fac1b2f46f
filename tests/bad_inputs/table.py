"""Reading the tables of bad inputs: one command a line, its exit code, and what its answer must say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
TABLES = ("options", "sweeps", "commands", "own_data", "weights")
# an answer that takes longer to read is none
MOST_LINES, MOST_SIGNS = 14, 2_000


@dataclass(frozen=True)
class Case:
    """`words` of a command line with {materials} in it. `wanted`: parts of the answer, one for each bad input."""

    words: tuple[str, ...]
    code: int
    wanted: tuple[str, ...]
    num_inputs: int = 1

    @property
    def title(self) -> str:
        return " ".join(self.words)[:100].replace("/", "|")

    def filled(self, made: Callable[[str], str]) -> tuple[list[str], list[str]]:
        """The words and the wanted parts, with the materials in their places."""
        return [made(word) for word in self.words], [made(part) for part in self.wanted]


def read(name: str) -> list[Case]:
    """The cases of one table."""
    cases = []
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            words, _, answer = line.rpartition(" -> ")
            code, _, wanted = answer.partition("|")
            parts = tuple(part.strip() for part in wanted.split(" & ") if part.strip())
            cases.append(Case(tuple(split(words)), int(code), parts))
    return cases


def split(words: str) -> list[str]:
    """Words as a shell sees them; quotes count only at the start of a word, so that `a="b"` keeps its own."""
    lexer = shlex.shlex(words, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    lexer.quotes = "'"
    return list(lexer)


def faults(case: Case, wanted: list[str], code: int, answer: str) -> list[str]:
    """What is wrong with an answer; [] when it is a good one."""
    found = []
    if code != case.code:
        found.append(f"exit code {code} instead of {case.code}")
    if code == 2 and not re.search(r"^peftbench: ", answer, re.MULTILINE):
        found.append("has no line that begins with 'peftbench: '")
    found += [f"does not say {part!r}" for part in wanted if part not in answer]
    if re.search(r"Traceback|a fault of peftbench|unexpected \w+(Error|Exception)", answer):
        found.append("shows a fault of the program")
    if len(answer.splitlines()) > MOST_LINES + case.num_inputs or len(answer) > MOST_SIGNS * case.num_inputs:
        found.append("is too long")
    if not all(sign.isprintable() or sign in "\n\t" for sign in answer):
        found.append("holds control characters")
    return found
