"""Standard output that may be a closed pipe, a full disk or an ASCII terminal: what is said there never stops work."""

from __future__ import annotations

import errno
import io
import os
import sys

from peftbench.foundation.stopping import end_by_signals


class Guarded(io.TextIOWrapper):
    """The text of one file descriptor. What it refuses is dropped, with all that follows, and remembered in `problem`.

    The bytes go out below Python: an interrupt behind a write in Python would have it made again.
    """

    problem: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.problem = self.problem or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def guard() -> Guarded | None:
    """Put a guard in front of this process's standard output; None where something else stands there already."""
    # a descriptor that was closed from outside would be given to the next file that is opened
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    stdout = sys.__stdout__
    if stdout is None or sys.stdout is not stdout:
        return None
    guarded = Guarded(
        io.BufferedWriter(io.FileIO(stdout.fileno(), "w", closefd=False)),
        stdout.encoding,
        errors="replace",
        line_buffering=stdout.line_buffering,
    )
    sys.stdout = guarded
    return guarded


def finish(guarded: Guarded | None, code: int) -> int:
    """The exit code, after what was left to say is said. A reader that went away (`| head`) is no failure."""
    if guarded is not None:
        end_by_signals()
    sys.stdout.flush()
    problem = guarded.problem if guarded else None
    if problem is None or problem.errno == errno.EPIPE:
        return code
    print(f"peftbench: standard output cannot be written ({problem.strerror}); all else was done", file=sys.stderr)
    return code or 1
