"""Command line: `python -m peftbench [group=choice ...]` runs a cell, `python -m peftbench COMMAND` a tool."""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType

from peftbench.foundation.errors import PeftbenchError, did_you_mean

# tool -> module with `main(words) -> exit code`; imported only when asked for
COMMANDS = {
    name: f"peftbench.cli.commands.{name}"
    for name in ("leaderboard", "compare", "pack", "evaluate", "trials", "reproduce", "export", "status", "data")
}


def main() -> int:
    """Exit codes: 0 done, 1 failed, 2 wrong configuration or missing input, 3 not applicable, 130 interrupted."""
    words = sys.argv[1:]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if words and "=" not in words[0] and not words[0].startswith("-"):
            return _command(words[0], words[1:])
        if not any(word.startswith("-") for word in words):
            done = _finished(words)
            if done is not None:
                return done
        from peftbench.cli.launch import launch

        return launch(words)
    except PeftbenchError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("peftbench: interrupted; nothing was recorded for the cell that was running", file=sys.stderr)
        return 130


def _command(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        print(f"peftbench: unknown command '{name}'{hint}; a cell is written group=choice", file=sys.stderr)
        return 2
    code: int = importlib.import_module(COMMANDS[name]).main(words)
    return code


def _finished(words: list[str]) -> int | None:
    from peftbench.cells.lines import skipped_line
    from peftbench.cli.shortcut import finished_record
    from peftbench.foundation.location import default_cache_dir

    found = finished_record(words, default_cache_dir())
    if found is None:
        return None
    print(skipped_line(found[1], found[0]))
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM (a scheduler's notice) ends a run the same way as Ctrl-C."""
    raise KeyboardInterrupt
