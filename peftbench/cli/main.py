"""Command line: `python -m peftbench [group=choice ...]` runs a cell, `python -m peftbench COMMAND` a tool."""

from __future__ import annotations

import importlib
import sys
import tempfile
import traceback

from peftbench.cli.help import help_text, version_line
from peftbench.cli.output import finish, guard
from peftbench.foundation.errors import ConfigError, PeftbenchError, brief, did_you_mean, error_line
from peftbench.foundation.stopping import INTERRUPTED, MESSAGE, SHORT, leave_by_signals, stop_by_signals
from peftbench.foundation.system import system_problem

# tool -> module with `main(words) -> exit code`; imported only when asked for
_RUNNING = ("advise", "predict", "evaluate", "robustness", "reproduce", "export", "show")
_NAMES = (*_RUNNING, "leaderboard", "compare", "pack", "trials", "status", "data", "completion")
COMMANDS = {name: f"peftbench.cli.commands.{name}" for name in _NAMES}


def main() -> int:
    """Exit codes: 0 done, 1 failed, 2 wrong configuration or missing input, 3 not applicable, 130 interrupted."""
    guarded = guard()
    return finish(guarded, _run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    command = bool(words) and "=" not in words[0] and not words[0].startswith(("-", "~"))
    told_to_stop = SHORT if command else MESSAGE
    leave_by_signals(told_to_stop)
    try:
        if command:
            return _command(words[0], words[1:])
        if "--version" in words:
            print(version_line())
            return 0
        if "--help" in words or "-h" in words:
            print(help_text([word for word in words if word not in ("-h", "--help")], COMMANDS), end="")
            return 0
        if not any(word.startswith("-") for word in words):
            done = _finished(words)
            if done is not None:
                return done
        from peftbench.cli.launch import launch

        stop_by_signals()
        return launch(words)
    except Exception as error:
        shown = _explained(error)
        print(error_line(shown), file=sys.stderr)
        return shown.exit_code
    except SystemExit as left:  # argparse's, once it has shown its help
        return int(left.code or 0)
    except KeyboardInterrupt:
        print(told_to_stop, file=sys.stderr)
        return INTERRUPTED


def _command(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise ConfigError([f"unknown command '{brief(name)}'{hint}; a cell is written group=choice"])
    command = importlib.import_module(COMMANDS[name])
    stop_by_signals()
    code: int = command.main(words)
    return code


def _explained(error: Exception) -> PeftbenchError:
    """Errors of ours as they are, those of the system in our words; the rest are faults of this or of a plug-in."""
    from peftbench.foundation.plugins import blamed

    if isinstance(error, PeftbenchError):
        return error
    known = system_problem(error) if isinstance(error, OSError) else None
    if known is not None:
        return known
    with tempfile.NamedTemporaryFile("w", prefix="peftbench-", suffix=".txt", delete=False) as stream:
        stream.write(traceback.format_exc())
    what = f"{type(error).__name__}: {brief(error)}"
    return PeftbenchError(f"unexpected {what}; this is a fault of {blamed(error)}, its traceback is in {stream.name}")


def _finished(words: list[str]) -> int | None:
    from peftbench.cells.lines import skipped_line
    from peftbench.cli.shortcut import finished_record
    from peftbench.foundation.location import default_cache_dir
    from peftbench.foundation.terminal import print_fitted

    found = finished_record(words, default_cache_dir())
    if found is None:
        return None
    print_fitted(skipped_line(found[1], found[0]))
    return 0
