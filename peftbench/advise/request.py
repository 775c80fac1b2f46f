"""What is asked of an advice: words of a cell, and the budget it has to keep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from peftbench.foundation.errors import ConfigError, brief, did_you_mean
from peftbench.foundation.location import user_folder

SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
BYTES = {"MB": 10**6, "GB": 10**9}
COUNTS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6}
OWN = ("budget", "memory", "params", "out")
# what the race itself sets
TAKEN = ("protocol", "train", "train.epochs", "tune", "hparams", "method", "optim.lr", "suite", "launcher", "objective")


@dataclass(frozen=True)
class Request:
    """`words`: those of the cells, such as `dataset=folder dataset.root=DIR`. `out`: the folder for model and page.

    seconds: for the whole advice. memory_bytes and params: most that training may count, None for no limit; `params`
    are the method's, without the head.
    """

    words: tuple[str, ...]
    seconds: float = 1800.0
    memory_bytes: float | None = None
    params: float | None = None
    out: Path | None = None

    def names(self, option: str) -> bool:
        """Whether the words set this option or group."""
        return any(word.partition("=")[0] == option for word in self.words)


def read_request(words: list[str]) -> Request:
    """Raises one `ConfigError` with every word that cannot be read or is the race's own to set."""
    own: dict[str, str] = {}
    rest: list[str] = []
    problems: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            problems.append(f"'{brief(word)}' is not of the form group=choice or section.option=value")
        elif key in OWN:
            own[key] = value
        elif key in TAKEN or key.partition(".")[0] in ("protocol", "train", "method", "tune"):
            problems.append(f"{key} is what the advice is about; leave it out (run a cell to set it yourself)")
        elif get_close_matches(key, OWN, cutoff=0.6):
            problems.append(f"unknown option {brief(key)}{did_you_mean(key, OWN)}")
        else:
            rest.append(word)
    numbers: dict[str, float | None] = {}
    for key, units, example in (("budget", SECONDS, "30m"), ("memory", BYTES, "8GB"), ("params", COUNTS, "1M")):
        try:
            numbers[key] = _number(own[key], units) if key in own else None
        except ValueError:
            problems.append(f"{key} must be a number above 0 with one of {_words(units)}, as {key}={example}")
    out = None
    try:
        out = _out(own["out"]) if "out" in own else None
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Request(
        tuple(rest),
        numbers["budget"] or Request.seconds,
        numbers["memory"],
        numbers["params"],
        out,
    )


def _out(named: str) -> Path:
    if not named:
        raise ConfigError(["out must not be empty; name a folder, as out=DIR"])
    return user_folder(named, "out")


def _number(text: str, units: dict[str, int]) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if match is None or match[2] not in units or float(match[1]) <= 0:
        raise ValueError(text)
    return float(match[1]) * units[match[2]]


def _words(units: dict[str, int]) -> str:
    return ", ".join(unit for unit in units if unit)
