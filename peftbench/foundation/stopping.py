"""Being told to stop: Ctrl-C, a scheduler's notice and a closed terminal end a run in one and the same way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 130
MESSAGE = "peftbench: interrupted; nothing was recorded for the cell that was running"
# of what runs no cell
SHORT = "peftbench: interrupted"
# what `_leave` says
_line = [MESSAGE]
# the signals that came since they were last given an answer
_told: list[int] = []
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def stop_by_signals() -> None:
    """From here on SIGTERM and SIGHUP raise `KeyboardInterrupt` as SIGINT does, so that claims are given up."""
    _answer_with(_raise)


def leave_by_signals(line: str = MESSAGE) -> None:
    """From here on the same signals end the process at once, with `line` and exit code 130.

    For the seconds in which packages are imported: some swallow an exception raised there, and nothing is held yet
    that would have to be given up.
    """
    _line[:] = [line]
    _answer_with(_leave)


def end_by_signals() -> None:
    """From here on the same signals end the process without a word: all is done, or was said."""
    _answer_with(signal.SIG_DFL)


def stop_if_told() -> None:
    """Raise `KeyboardInterrupt` where one of the signals came and what it raised was swallowed.

    Code that the interpreter or a library calls back (imports, finalisers) may do that; long work asks here between its
    steps.
    """
    if _told:
        raise KeyboardInterrupt


def stop_with(parent: int, every_seconds: float = 1.0) -> None:
    """Stop this process, as SIGTERM does, when its parent process is no longer the one with this number."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _answer_with(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    _told.clear()
    ours = (signal.SIG_DFL, signal.default_int_handler, _raise, _leave)
    for number in _SIGNALS:
        # what nohup or a shell's background job ignores stays ignored
        if signal.getsignal(number) in ours:
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    _told.append(number)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    sys.stderr.write(f"{_line[0]}\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
