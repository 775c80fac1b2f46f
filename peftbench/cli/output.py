"""Standard output that may be a closed pipe, a full disk or an ASCII terminal: what is said there never stops work."""

from __future__ import annotations

import errno
import io
import os
import sys


class Guarded(io.RawIOBase):
    """The bytes of one file descriptor. What it refuses is dropped and remembered in `problem`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.problem: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.problem is None:
            try:
                return os.write(self._descriptor, data)
            except OSError as error:
                self.problem = error
        return len(data)


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
    raw = Guarded(stdout.fileno())
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), stdout.encoding, errors="replace", line_buffering=stdout.line_buffering
    )
    return raw


def finish(guarded: Guarded | None, code: int) -> int:
    """The exit code, after what was left to say is said. A reader that went away (`| head`) is no failure."""
    sys.stdout.flush()
    problem = guarded.problem if guarded else None
    if problem is None or problem.errno == errno.EPIPE:
        return code
    print(f"peftbench: standard output cannot be written ({problem.strerror}); all else was done", file=sys.stderr)
    return code or 1
