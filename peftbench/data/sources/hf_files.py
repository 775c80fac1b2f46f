"""Which files a local dataset in Hugging Face form is made of: the fingerprint covers these, and no other is read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from peftbench.foundation.entries import all_below
from peftbench.foundation.errors import BadInput

# beside tables these hold words about the data and no data
_DOCUMENTS = frozenset({"", ".md", ".txt", ".json", ".yaml", ".yml", ".py"})


def data_files(place: Path) -> list[Path]:
    """The data below a folder, by path: all files; beside parquet files without documents. A file is its own.

    Raises `BadInput` for a folder in it that cannot be read.
    """
    if place.is_file():
        return [place]
    files = [path for path in all_below(place) if path.is_file() and not path.name.startswith(".")]
    if any(file.suffix == ".parquet" for file in files):
        return [file for file in files if file.suffix.lower() not in _DOCUMENTS]
    return files


def card_header(place: Path) -> bytes:
    """The part of a dataset's card that says which files make which split; empty where the card says nothing of it."""
    try:
        text = (place / "README.md").read_bytes().replace(b"\r\n", b"\n")
    except OSError:
        return b""
    header = text.partition(b"\n---")[0] if text.startswith(b"---\n") else b""
    return header if b"data_files" in header or b"data_dir" in header else b""


class OwnedFiles:
    """The files of a dataset, told apart by device and inode so that no spelling of a path leads around them."""

    def __init__(self, place: Path, files: Iterable[Path]) -> None:
        self.place = place
        self._known = {_number(file) for file in files}

    def refuse_others(self, paths: Iterable[str], who: str) -> None:
        """Raises `BadInput` for a path that is none of the dataset's files; `who` names it."""
        for path in paths:
            if "://" in path or not self._holds(Path(path)):
                raise BadInput(
                    f"{self.place}: {who} names {path}, which is no file of this dataset; "
                    "put the file there, or set dataset.path to the folder that holds both"
                )

    def image(self, path: str, name: str) -> bytes:
        """The bytes of an image that a table names; relative names start at the dataset's folder."""
        file = (self.place if self.place.is_dir() else self.place.parent) / path
        if not file.is_file():
            raise BadInput(
                f"{name}: only a path is stored ({path}) and there is no such file; "
                "the table was written without its images"
            )
        if not self._holds(file):
            raise BadInput(
                f"{name}: only a path is stored ({path}), and it leads out of {self.place}; "
                "set dataset.path to a folder that holds the table and the images"
            )
        try:
            return file.read_bytes()
        except OSError as error:
            raise BadInput(f"{name}: {file} cannot be read ({error.strerror})") from error

    def _holds(self, path: Path) -> bool:
        try:
            return _number(path) in self._known
        except OSError:
            return False


def check_saved(place: Path, owned: OwnedFiles) -> None:
    """Raises `BadInput` where what `save_to_disk` wrote names files that are not the dataset's."""
    try:
        splits = json.loads((place / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        for split in splits:
            state = json.loads((place / split / "state.json").read_text(encoding="utf-8"))
            named = [entry["filename"] for entry in [*state["_data_files"], *(state.get("_indices_files") or [])]]
            owned.refuse_others((str(place / split / name) for name in named), f"{split}/state.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{place}: not a dataset as save_to_disk writes it ({error})") from error


def _number(path: Path) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - there may be 100,000 of them
    return found.st_dev, found.st_ino
