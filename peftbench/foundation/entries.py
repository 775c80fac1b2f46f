"""What lies in the folders of data and of results, in order of name. No folder is passed over.

`Path.glob`, `Path.rglob` and `os.walk` leave out a folder without the right to it: data would silently be other data,
and a table would lack rows. Here it raises the message of `foundation.system.unreadable`. A folder that is not there
holds nothing.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path

from peftbench.foundation.system import unreadable

# neither is a fault: what is not there, and a file where a folder was looked for
_NOTHING = (FileNotFoundError, NotADirectoryError)


def entries_in(folder: Path) -> list[Path]:
    """Files and folders in `folder`, hidden ones among them."""
    return [folder / name for name in sorted(entry.name for entry in scanned(folder))]


def scanned(folder: Path) -> list[os.DirEntry[str]]:
    """The same as the system lists them, in no particular order."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except _NOTHING:
        return []
    except OSError as error:
        raise unreadable(error, folder) from error


def matching(folder: Path, pattern: str) -> Iterator[Path]:
    """What `folder.glob(pattern)` names, one after the other; a pattern without `**`.

    Folders are read as the answers are asked for: a caller who wants one reads no more than it takes to find it.
    """
    first, _, rest = pattern.partition("/")
    if not set(first) & set("*?["):
        found = [folder / first] if rest or _is_there(folder / first) else []
    else:
        found = [entry for entry in entries_in(folder) if fnmatch.fnmatch(entry.name, first)]
    for entry in found:
        if rest:
            yield from matching(entry, rest)
        else:
            yield entry


def all_below(folder: Path) -> list[Path]:
    """Every file and folder in `folder` and its folders. Links to folders are named and not followed."""
    walk = os.walk(folder, onerror=_refuse)
    return sorted(Path(place, name) for place, folders, files in walk for name in (*folders, *files))


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except _NOTHING:
        return False
    except OSError as error:
        raise unreadable(error, path) from error
    return True


def _refuse(error: OSError) -> None:
    if not isinstance(error, _NOTHING):
        raise unreadable(error) from error
