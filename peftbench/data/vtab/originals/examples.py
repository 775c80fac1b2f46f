"""Keyed examples of one split of an original dataset, and the splits they are served through."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.raw import RawSplit
from peftbench.data.splits import FileSplit
from peftbench.foundation.digests import files_digest
from peftbench.foundation.errors import BadInput, MissingInput

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Examples:
    """One TFDS split. `keys` decide its order; `labels`: int64 [num_examples]; `pick(rows)` serves chosen rows."""

    keys: Sequence[str | int]
    labels: np.ndarray
    pick: Callable[[np.ndarray], RawSplit]


# TFDS's name of a split (which is also the salt of its order) -> its examples
Splits = dict[str, Examples]


def file_examples(keys: Sequence[str], paths: Sequence[Path], labels: Sequence[int] | np.ndarray) -> Examples:
    """Examples whose images are files."""
    known = np.asarray(labels, dtype=np.int64)
    return Examples(keys, known, lambda rows: FileSplit([paths[row] for row in rows], known[rows]))


def stored_examples(
    files: list[Path],
    keys: Sequence[str | int],
    labels: np.ndarray,
    load: Callable[[np.ndarray], np.ndarray],
) -> Examples:
    """Examples inside array files; `load(rows)` reads uint8 [num_rows, height, width] or [..., 3]."""
    known = np.asarray(labels, dtype=np.int64)
    return Examples(keys, known, lambda rows: StoredSplit(files, rows, known[rows], load))


class StoredSplit(RawSplit):
    """Rows of array files that are read together, and only when a picture is asked for."""

    def __init__(
        self, files: list[Path], rows: np.ndarray, labels: np.ndarray, load: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.files, self.rows, self.labels = files, rows, labels
        self._load = load
        self._images: np.ndarray | None = None
        self._lock = threading.Lock()

    def content_digest(self) -> str:
        return hashlib.sha256(files_digest(self.files).encode() + self.rows.tobytes()).hexdigest()

    def read(self, index: int) -> Image:
        from PIL import Image

        with self._lock:
            if self._images is None:
                self._images = self._load(self.rows)
        return Image.fromarray(self._images[index])


def lines_of(path: Path) -> list[str]:
    """The lines of a list file that are not blank, stripped. Raises `MissingInput` or `BadInput`."""
    try:
        return [stripped for line in path.read_text(encoding="utf-8").split("\n") if (stripped := line.strip())]
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: there is no such list; unpack the archive again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error}); unpack the archive again") from error


def class_folders(root: Path, suffixes: tuple[str, ...]) -> tuple[list[str], list[str], list[Path]]:
    """(class of each image, file names, paths) of `root/<class>/<file>`, both levels sorted by name."""
    classes, names, paths = [], [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in suffixes:
                classes.append(folder.name)
                names.append(path.name)
                paths.append(path)
    return classes, names, paths
