"""The words of the command line: the one place that knows their grammar (Hydra's) and says what is wrong with one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import HydraException

from peftbench.config.choices import choices_of
from peftbench.foundation.errors import ConfigError, brief, did_you_mean
from peftbench.foundation.plugins import own_parts

FORM = "is not of the form group=choice or section.option=value"
# single values at the top of a configuration, beside its sections
TOP = ("seed", "hparams")
# values of one word of a sweep; more is a slip of the pen
MOST_VALUES = 100_000


@cache
def parsed(word: str) -> Override:
    """One word. A value that Hydra's grammar has no reading for, such as `~/my images`, is taken as it stands.

    Raises `ConfigError` saying how to write it.
    """
    parser = OverridesParser.create()
    key, equals, value = word.partition("=")
    try:
        try:
            return parser.parse_override(word)
        except HydraException:
            if not equals or value[:1] in ("", "[", "{", "'", '"') or "${" in value:
                raise
            return parser.parse_override(f"{key}={quoted(value)}")
    except (HydraException, ValueError, RecursionError):
        raise ConfigError([_unreadable(word, key, value)]) from None


def quoted(value: str) -> str:
    """A value in quotes, in which commas, brackets and equals signs have no meaning."""
    slashes = len(value) - len(value.rstrip("\\"))
    return '"' + value.replace('"', '\\"') + "\\" * slashes + '"'


def readable(words: Iterable[str]) -> list[str]:
    """The same words as Hydra reads them (see `parsed`). Raises one `ConfigError` for all that cannot be read."""
    result, problems = [], []
    for word in words:
        try:
            result.append(str(parsed(word).input_line))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return result


def word_problems(
    words: list[str],
    config_dir: Path,
    sections: list[str],
    sweep: bool = False,
    with_section: Callable[[str], list[str]] = lambda option: [],
    without_file: Callable[[str, str], str] = lambda group, choice: "",
) -> list[str]:
    """One message for every word that names no group, no choice of a group, or no section; [] if all is well.

    What stands behind a section's dot is left to the configuration gate, which knows the types. Only a `sweep` may
    give several values to one word. `with_section` says how an option is written that lacks its
    section, `without_file` what to do for a choice that has code but no yaml file.
    """
    problems = []
    for word in words:
        try:
            problems.extend(_problems(word, parsed(word), config_dir, sections, sweep, with_section, without_file))
        except ConfigError as error:
            problems.extend(error.problems)
    return problems


def named_options(words: Iterable[str]) -> frozenset[str]:
    """The options and groups that the words name: `optim.lr=0.1 train=short` -> {"optim.lr", "train"}."""
    return frozenset(_key(parsed(word)) for word in words)


def option_values(words: Iterable[str]) -> dict[str, Any]:
    """Option -> its one value: `dataset.root=DIR seed=1` -> {"dataset.root": "DIR", "seed": 1}.

    Raises `ConfigError` for words that are no options or have several values.
    """
    values, problems = {}, []
    for word in words:
        try:
            override = parsed(word)
            if override.is_delete() or override.is_sweep_override():
                raise ConfigError([_left_out(word) if override.is_delete() else _several(word)])
            values[_key(override)] = override.value()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return values


def named_paths(words: Iterable[str]) -> list[Path]:
    """The files and folders that options name and that are there: what a command is told to read. Raises as
    `option_values`.
    """
    named = [os.path.expanduser(value) for value in option_values(words).values() if isinstance(value, str)]  # noqa: PTH111
    # a value that is no path, a null byte in it, say, is no file either
    return [Path(path) for path in named if os.path.exists(path)]  # noqa: PTH110


def values_of(word: str, config_dir: Path) -> tuple[str, list[str] | None]:
    """The key of a word and the values a sweep gives it, `method=lora,ssf` -> lora and ssf; None for a plain word.

    Raises `ConfigError` where there are none, or no end of them.
    """
    override = parsed(word)
    key = str(override.get_key_element())
    return key, _values(word, override, config_dir) if override.is_sweep_override() else None


def _values(word: str, override: Override, config_dir: Path) -> list[str]:
    """The values of a word of a sweep, each as it is written in a word."""
    found = override.value()
    if isinstance(found, Glob):
        group = config_dir / _key(override)
        if not group.is_dir():
            raise ConfigError([f"'{word}': glob(...) chooses among the choices of a group; {_key(override)} is none"])
        names: list[str] = found.filter(choices_of(group))
        if not names:
            raise ConfigError([f"'{word}' matches no choice{did_you_mean('', choices_of(group))}"])
        return names
    if isinstance(found, RangeSweep):
        _check_range(word, found)
    if override.is_interval_sweep():
        raise ConfigError([f"'{word}': a sweep takes a,b,c or range(...); tune=random draws values from an interval"])
    try:
        values = list(override.sweep_string_iterator())
    except (HydraException, ValueError, TypeError) as error:
        raise ConfigError([f"'{brief(word)}': {brief(str(error))}"]) from None
    if not values:
        raise ConfigError([f"'{word}' gives no value"])
    return values


def _key(override: Override) -> str:
    return (override.key_or_group or "").split("@")[0]


def _problems(
    word: str,
    override: Override,
    config_dir: Path,
    sections: list[str],
    sweep: bool,
    with_section: Callable[[str], list[str]],
    without_file: Callable[[str, str], str],
) -> list[str]:
    key = _key(override)
    first, dot, _ = key.partition(".")
    groups = sorted(path.name for path in config_dir.iterdir() if path.is_dir())
    if first.split("/")[0] == "hydra":
        return [
            f"'{brief(word)}': Hydra only composes the options here; records go to runtime.results=DIR, "
            "for sweeps choose launcher=local, joblib, slurm or ray"
        ]
    if override.is_delete():
        return [_left_out(word)]
    if override.package is not None:
        return [f"'{brief(word)}': options have one place each; write {key}=... without @{override.package}"]
    if dot and first in TOP:
        return [f"unknown option {key}; {first} is a single value: {first}=..."]
    if first not in sections and first not in groups:
        if not dot and (written := with_section(key)):
            return [f"unknown option {key}; did you mean {' or '.join(written)}?"]
        return [f"unknown option {key or brief(word)}{did_you_mean(first, [*sections, *groups])}"]
    if override.is_sweep_override() and not sweep:
        return [_several(word)]
    is_group = not dot and key in groups
    if is_group and word.startswith("+"):
        return [f"'{brief(word)}': every group has a choice already; write {brief(word.lstrip('+'))}"]
    if override.is_sweep_override():
        values = _values(word, override, config_dir)
    else:
        value = override.value()
        if is_group and (isinstance(value, (list, dict, bool)) or value is None):
            hint = did_you_mean(str(value), _known(key, config_dir))
            return [f"{key} takes one of its choices, got '{brief(word)}'{hint}"]
        values = [str(value)]
    known = _known(key, config_dir) if is_group else []
    return [
        f"{key} has no choice '{brief(choice)}'{without_file(key, choice) or did_you_mean(choice, known, own_parts())}"
        for choice in values
        if is_group and choice not in known
    ]


def _known(group: str, config_dir: Path) -> list[str]:
    return choices_of(config_dir / group)


def _check_range(word: str, sweep: RangeSweep) -> None:
    start, stop, step = (float(value if value is not None else 0) for value in (sweep.start, sweep.stop, sweep.step))
    if not all(map(math.isfinite, (start, stop, step))) or step == 0:
        raise ConfigError([f"'{word}': a range has a finite start and stop and a step other than 0"])
    num_values = math.ceil((stop - start) / step)
    if num_values < 1:
        raise ConfigError([f"'{word}' gives no value: range(start,stop) ends before its stop"])
    if num_values > MOST_VALUES:
        raise ConfigError([f"'{word}' gives {num_values:,} values; a word of a sweep may have {MOST_VALUES:,}"])


def _left_out(word: str) -> str:
    return f"'{word}': nothing can be taken out of a configuration; without the word it has its default"


def _several(word: str) -> str:
    key, _, value = word.partition("=")
    one = f"; as one value it is written '{key}={quoted(value)}'" if "(" not in value else ""
    return f"'{brief(word)}' gives several values; a sweep over them is started with -m{one}"


def _unreadable(word: str, key: str, value: str) -> str:
    if not value or not key:
        return f"'{brief(word)}' {FORM}"
    if value[0] in "[{":
        reason = f"the value is no closed list or text; a value with brackets in it is written '{key}={quoted(value)}'"
        return f"'{brief(word)}' {FORM}: {reason if len(value) < 200 else 'the value is too long or too deep'}"
    return f"'{brief(word)}' {FORM}: a value with such signs is written in quotes, '{brief(key)}=\"...\"'"
