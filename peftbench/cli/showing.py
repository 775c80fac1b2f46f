"""Hydra's flags that show a configuration and run nothing: checked here, answered by Hydra."""

from __future__ import annotations

from collections.abc import Collection

from peftbench.cli.arguments import results_hint
from peftbench.config.gate import config_dir, register_schemas
from peftbench.config.words import problems_of
from peftbench.foundation.errors import ConfigError, brief, did_you_mean

_CFG, _INFO = ("job", "hydra", "all"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# what is shown -> what may stand behind the flag
SHOWING = {"--cfg": _CFG, "-c": _CFG, "--info": _INFO, "-i": _INFO}
_OF_CFG = ("--resolve", "--package", "-p")
_PACKAGE = _OF_CFG[1:]


def show(words: list[str], others: Collection[str]) -> int:
    """Exit code 0 once Hydra has shown what the flags ask for; `others` are flags that go without these.

    Raises `ConfigError` for flags that there are not, or that do not go together, and for wrong words.
    """
    flags = [word for word in words if word.startswith("-")]
    known = {*SHOWING, *_OF_CFG, *others, "--help", "--version"}
    problems = [
        f"unknown flag {flag}{results_hint(_name(flag)) or did_you_mean(flag, known)}"
        for flag in sorted(set(flags))
        if _name(flag) not in known
    ]
    problems += _together([_name(flag) for flag in flags if _name(flag) in known]) if not problems else []
    rest, wrong = _behind(words)
    problems += wrong + problems_of(rest)
    if problems:
        raise ConfigError(problems)
    import hydra

    register_schemas()
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(lambda tree: None)()
    return 0


def _name(flag: str) -> str:
    return flag.partition("=")[0]


def _together(flags: list[str]) -> list[str]:
    """What is wrong with flags that there are."""
    showing = [flag for flag in flags if flag in SHOWING]
    if not showing:
        of_cfg = [flag for flag in flags if flag in _OF_CFG]
        return [f"{flag} goes with --cfg: --cfg job {flag}{' SECTION' * (flag in _PACKAGE)}" for flag in of_cfg[:1]]
    others = [flag for flag in flags if flag not in (*SHOWING, *_OF_CFG)]
    if len(showing) > 1 or others:
        return [f"{showing[0]} shows one thing and runs nothing; leave out {[*showing[1:], *others][0]}"]
    return []


def _behind(words: list[str]) -> tuple[list[str], list[str]]:
    """The words without flags and their values, and what is wrong with the values."""
    rest: list[str] = []
    problems = []
    waiting = ""
    for word in [*words, "-"]:
        flag, equals, value = word.partition("=")
        if waiting and not word.startswith("-"):
            problems += _value_problems(waiting, word)
            waiting = ""
        elif word.startswith("-"):
            problems += _value_problems(waiting, "") if waiting else []
            problems += _value_problems(flag, value) if equals else []
            waiting = flag if not equals and flag in (*SHOWING, *_PACKAGE) else ""
        else:
            rest.append(word)
    return rest, problems


def _value_problems(flag: str, value: str) -> list[str]:
    choices = SHOWING.get(flag, ())
    if flag not in (*SHOWING, *_PACKAGE):
        return [f"{flag} takes no value"]
    if flag in ("--info", "-i") and not value:
        return []  # all of it
    if (choices and value not in choices) or not value:
        return [f"{flag} takes {', '.join(choices) or 'the name of a section'}; got {brief(repr(value))}"]
    return []
