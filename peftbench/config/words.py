"""Whether the words of a cell name groups, choices and sections that there are, before anything is composed."""

from __future__ import annotations

from collections.abc import Iterator

from peftbench.config.gate import FIXED, config_dir
from peftbench.config.having import has_option, having
from peftbench.config.overrides import word_problems
from peftbench.config.parts import NAMED
from peftbench.foundation.errors import brief
from peftbench.foundation.plugins import plugins


def problems_of(words: list[str], sweep: bool = False) -> list[str]:
    """One message for every wrong word; [] if all is well. What stands behind a section's dot, the gate checks."""
    problems = word_problems(words, config_dir(), [*FIXED, *NAMED, "seed"], sweep, with_section, without_file)
    return problems + [line for word in words for line in _of_names(word)]


def _of_names(word: str) -> Iterator[str]:
    """What is wrong with a word that sets the name of a part: the part would come without the options it ships with."""
    key, _, value = word.lstrip("+~").partition("=")
    for section, (name, _) in NAMED.items():
        if key == f"{section}.{name}":
            yield f"{key} is no option; {section}={brief(value) or '<name>'} chooses the part with its own options"


def with_section(option: str) -> list[str]:
    """An option's name as it is written: `rank` -> `method.rank`, in every section where some part has it."""
    sections = [section for section in NAMED if having(section, option)]
    sections += [section for section, cls in FIXED.items() if has_option(cls, option)]
    return [f"{section}.{option}" for section in sections]


def without_file(group: str, choice: str) -> str:
    """What a plug-in lacks whose code has a part of that name; "" where there is none."""
    if group not in NAMED or not plugins() or choice not in NAMED[group][1]().names():
        return ""
    place = f"configs/{group}/{choice}.yaml"
    return f": the plug-in lacks {place} with the line 'defaults: [\"/schema/{group}/{choice}@{group}\"]'"
