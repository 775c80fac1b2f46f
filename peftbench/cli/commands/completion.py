"""`python -m peftbench completion`: what bash and zsh run to complete commands, groups, choices and options on Tab."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
from pathlib import Path

from peftbench.cli.arguments import Arguments
from peftbench.cli.help import TOPICS
from peftbench.config.choices import choices_of
from peftbench.config.parts import OUTLINED, outlined
from peftbench.foundation.errors import PeftbenchError
from peftbench.foundation.plugins import config_dir
from peftbench.foundation.spec import Spec

SCRIPT = """\
_peftbench_complete() {
    local IFS=$'\\n' shell=bash
    [ -n "$ZSH_VERSION" ] && shell=zsh
    COMPREPLY=($(peftbench completion --shell "$shell" --line "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
}
[ -n "$ZSH_VERSION" ] && autoload -U +X bashcompinit && bashcompinit
complete -o nospace -o default -F _peftbench_complete peftbench
"""
COMMANDS_FOLDER = Path(__file__).resolve().parent
FLAGS = ("-m", "--dry-run", "--help", "--version")
# section -> module and class of its options
SECTIONS = {
    "backbone": ("peftbench.backbones.options", "BackboneSpec"),
    "protocol": ("peftbench.config.protocol", "ProtocolSpec"),
    "optim": ("peftbench.train.options", "OptimSpec"),
    "train": ("peftbench.train.options", "TrainSpec"),
    "runtime": ("peftbench.config.runtime", "RuntimeSpec"),
    "tune": ("peftbench.config.tuning", "TuneSpec"),
}


def main(words: list[str]) -> int:
    """Exit code 0."""
    parser = Arguments.of("completion", __doc__)
    parser.add_argument("--shell", choices=("bash", "zsh"), default="bash", help=argparse.SUPPRESS)
    parser.add_argument("--line", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.line is None:
        print(SCRIPT, end="")
        return 0
    for candidate in candidates(arguments.line):
        # bash breaks a word at its equals sign and completes what stands behind it
        print(candidate.rpartition("=")[2] if arguments.shell == "bash" and candidate[-1] != "=" else candidate)
    return 0


def candidates(line: str) -> list[str]:
    """Whole words that the last word of a command line may become; a blank at the end says that it is complete."""
    words = line.split()[1:]
    last = words.pop() if words and not line[-1].isspace() else ""
    return [word for word in _proposed(words, last) if word.startswith(last)]


def _proposed(words: list[str], last: str) -> list[str]:
    key, equals, value = last.partition("=")
    if equals:
        *before, _ = value.split(",")
        start = f"{key}={''.join(f'{item},' for item in before)}"
        return [f"{start}{choice} " for choice in _values(key.lstrip("+"), words)]
    if "." in last:
        section = key.partition(".")[0]
        return [f"{section}.{field.name}=" for field in _fields(section, words)]
    command = words[0] if words else ""
    if "--help" in words:
        return [f"{topic} " for topic in TOPICS]
    if command in _commands():
        return _of_command(command, words[1:])
    return [*(f"{name} " for name in (*_commands(), *FLAGS) if not words or name in FLAGS), *_keys()]


def _commands() -> list[str]:
    return sorted(path.stem for path in COMMANDS_FOLDER.glob("*.py") if path.stem != "__init__")


def _of_command(command: str, words: list[str]) -> list[str]:
    source = (COMMANDS_FOLDER / f"{command}.py").read_text(encoding="utf-8")
    flags = [f"{flag} " for flag in re.findall(r'add_argument\(\s*"(--[\w-]+)"', source)]
    if command == "status":
        return [*flags, *_keys()]
    if command == "data":
        actions = [f"{name} " for name in re.findall(r'action\("(\w+)"', source)]
        return [*flags, *([f"{name} " for name in choices_of(config_dir() / "dataset")] if words else actions)]
    return flags


def _keys() -> list[str]:
    groups = sorted(path.name for path in config_dir().iterdir() if path.is_dir())
    sections = sorted({*SECTIONS, *OUTLINED, "dataset"})
    return [*(f"{group}=" for group in (*groups, "seed", "hparams", "+suite")), *(f"{name}." for name in sections)]


def _values(key: str, words: list[str]) -> list[str]:
    """What an option or group may be set to; nothing where it is a number or a text."""
    if key == "suite":
        from peftbench.data.suites import SUITES

        return list(SUITES)
    if key == "hparams":
        from peftbench.config.presets import DEFAULT, presets

        return [DEFAULT, *presets()]
    if "." not in key:
        return [*(["all"] if key == "method" else []), *choices_of(config_dir() / key)]
    section, _, name = key.partition(".")
    for field in _fields(section, words):
        if field.name == name:
            allowed = field.metadata.get("choices", ("true", "false") if field.type == "bool" else ())
            return list(allowed() if callable(allowed) else allowed)
    return []


def _fields(section: str, words: list[str]) -> tuple[dataclasses.Field[object], ...]:
    try:
        if section in OUTLINED:
            chosen = [word.partition("=")[2].split(",")[0] for word in words if word.startswith(f"{section}=")]
            cls = outlined(section, _schema_name(section, chosen[-1])) if chosen else Spec
        elif section in SECTIONS:
            module, name = SECTIONS[section]
            cls = getattr(importlib.import_module(module), name)
        else:
            return ()
        return dataclasses.fields(cls)
    except (PeftbenchError, OSError):
        return ()


def _schema_name(section: str, choice: str) -> str:
    """The name in code of a choice: `vpt` is another name of `vpt_deep`."""
    text = (config_dir() / section / f"{choice}.yaml").read_text(encoding="utf-8")
    schema = re.search(rf"/schema/{section}/(\w+)@", text)
    other = re.search(r"defaults: \[(\w+)\]", text)
    return schema[1] if schema else _schema_name(section, other[1]) if other else choice
