"""How wide what is written may be, and lines that keep to it."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TextIO

from peftbench.foundation.errors import printable

# narrower than this nothing can be read
_LEAST = 20
_PIPE = 140


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal behind a stream, or what COLUMNS says; None for a pipe or a file without it."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and len(asked) < 6 and int(asked) > 0:
        return max(int(asked), _LEAST)
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        found = 0
    # a terminal that does not say has the usual width
    return max(found, _LEAST) if found else 80


def table_width() -> int:
    """Columns of a table on standard output; what a pipe or a log file gets does not depend on anybody's window."""
    return width_of(sys.stdout) or _PIPE


def fitted(text: str, width: int | None) -> str:
    """`text` with its lines broken between words where they are too long; a long word, as a path, stays whole.

    Signs that would command a terminal (file names may hold them) appear as their escapes.
    """
    text = printable(text)
    if width is None:
        return text
    broken = (
        textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [line]
        for line in text.split("\n")
    )
    return "\n".join(piece for pieces in broken for piece in pieces)


def number_of(count: int, noun: str) -> str:
    """`1 picture`, `2,000 pictures`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_fitted(text: str, stream: TextIO | None = None) -> None:
    """Print lines that a person reads, broken between words where `stream` (standard output) is a narrow terminal.

    A pipe gets them whole, whatever COLUMNS says: programs read there.
    """
    stream = stream or sys.stdout
    print(fitted(text, width_of(stream) if stream.isatty() else None), file=stream, flush=True)
