"""`--help` and `--version`: what people need first, and the rest on demand. Imports nothing heavy."""

from __future__ import annotations

import ast
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peftbench.config.choices import choices_of
from peftbench.foundation.plugins import config_dir

FIRST = """\
peftbench runs one cell (backbone x method x dataset) and leaves one record.

  python -m peftbench method=lora dataset=digits seed=1   one cell
  python -m peftbench -m method=lora,ssf seed=0,1,2       a sweep
  python -m peftbench -m +suite=vtab method=all --dry-run what it would run
  python -m peftbench method=lora tune=random             tuned on val200 first
  python -m peftbench status +suite=vtab method=all       how far a sweep is
  python -m peftbench leaderboard                         records -> tables
  python -m peftbench reproduce RECORD                    again, bit for bit
  python -m peftbench export RECORD FILE                  adapter for plain timm
  python -m peftbench data list                           datasets: ready or not
  python -m peftbench advise dataset=folder dataset.root=DIR    for own photos

More: --help commands, --help groups, --help options [method=lora ...]
Tab completion, in ~/.bashrc or ~/.zshrc: eval "$(peftbench completion)"
"""
TOPICS = ("commands", "groups", "options")


def version_line() -> str:
    try:
        return f"peftbench {version('peftbench')}"
    except PackageNotFoundError:
        return "peftbench (not installed: run from its source)"


def help_text(words: list[str], commands: dict[str, str]) -> str:
    """What `--help` shows beside these words: a topic, the options of the cell they name, or the first page."""
    topic = words[0] if words else ""
    if topic == "commands":
        return commands_text(commands)
    if topic == "groups":
        return groups_text()
    return options_text(words[topic == "options" :]) if words else FIRST


def commands_text(commands: dict[str, str]) -> str:
    """Every command with the first line of its own description."""
    folder = Path(__file__).resolve().parent / "commands"
    lines = []
    for name in commands:
        described = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:12} {described.splitlines()[0].partition(': ')[2]}")
    return "\n".join([*lines, "\npython -m peftbench COMMAND --help tells its words.\n"])


def groups_text() -> str:
    """Every group and its choices."""
    groups = sorted(path for path in config_dir().iterdir() if path.is_dir())
    return "".join(f"{group.name}:\n  {' '.join(choices_of(group))}\n" for group in groups)


def options_text(words: list[str]) -> str:
    """Every option of the cell that the words name, with its value."""
    from peftbench.config.compose import options_page

    return options_page(words)
