"""What is wrong with the options of a sweep, each said once and with the choices that it is about."""

from __future__ import annotations

import re
from collections.abc import Collection

from peftbench.config.having import UNKNOWN, first_of

_HINT = "; did you mean "
# problem -> the words of every combination that has it
Wrong = dict[str, list[list[str]]]


def problem_lines(wrong: Wrong, combinations: list[list[str]]) -> list[str]:
    """The problems; an option that some or all of the swept choices lack is said once, with who has it."""
    lines: dict[str, None] = {}
    lacking: dict[tuple[str, str], Wrong] = {}
    for problem, where in wrong.items():
        unknown = UNKNOWN.match(problem)
        if unknown is None or not any(choice_of(unknown[1], words) for words in where):
            lines[problem + _only_of(problem, where, combinations)] = None
        else:
            lacking.setdefault((unknown[1], unknown[2]), {})[problem] = where
    for (section, option), problems in lacking.items():
        lines[_of_unknown(section, option, problems, combinations)] = None
    return list(lines)


def choice_of(section: str, words: list[str]) -> str:
    """What the words choose for a section; "" when they leave it to its default."""
    return next((value for key, _, value in (word.partition("=") for word in words) if key == section), "")


def key_of(word: str) -> str:
    """What a word is about: `+dataset=digits` -> dataset."""
    return word.partition("=")[0].lstrip("+")


def _of_unknown(section: str, option: str, problems: Wrong, combinations: list[list[str]]) -> str:
    """One line for an option that choices of its section lack: which ones, and who has it or what is like it."""
    lacking = {problem: _choices(section, where) for problem, where in problems.items()}
    everyone = _choices(section, combinations)
    without = list(dict.fromkeys(choice for choices in lacking.values() for choice in choices))
    having = [choice for choice in everyone if choice not in without]
    if not having and len(everyone) == 1:
        return next(iter(problems))
    line = f"unknown option {section}.{option} for {section}={first_of(without)}"
    if having:
        has = f"{len(having)} of {len(everyone)} {'has' if len(having) == 1 else 'have'} it"
        return f"{line}; {has}: sweep {section}={','.join(having)} alone"
    like: dict[str, list[str]] = {}
    for problem, choices in lacking.items():
        for name in re.findall(r"'(\w+)'", problem.partition(_HINT)[2]):
            like.setdefault(name, []).extend(choices)
    if not like:
        return f"{line}; --help options {section}={without[0]} lists what there is"
    of = {name: "" if set(own) == set(everyone) else f" ({section}={first_of(own)})" for name, own in like.items()}
    meant = " or ".join(f"'{name}'{whose}" for name, whose in of.items())
    return f"{line}{_HINT}{meant}?"


def _only_of(problem: str, where: list[list[str]], combinations: list[list[str]]) -> str:
    """` (method=lora, vpt)`: the swept choices that a problem is about; "" where it is about all or names them."""
    parts = []
    for key in dict.fromkeys(key_of(word) for words in combinations for word in words):
        everyone, choices = _choices(key, combinations), _choices(key, where)
        if len(choices) < len(everyone) and "" not in everyone and not ("." in key and key in problem):
            parts.append(f"{key}={first_of(choices)}")
    return f" ({'; '.join(parts)})" if parts else ""


def _choices(section: str, combinations: Collection[list[str]]) -> list[str]:
    return list(dict.fromkeys(choice_of(section, words) for words in combinations))
