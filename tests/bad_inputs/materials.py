"""The files and folders that the tables point to, each made when it is first asked for."""

from __future__ import annotations

import re
from pathlib import Path

from peftbench.records.store import Store
from tests import record_factory
from tests.bad_inputs import checkpoints, images, lists, results

_NAME = re.compile(r"\{([a-z][a-z0-9_]*)\}")

# whole words that would be hard to read in a table
WORDS = {
    "deep_list": f"optim.lr={'[' * 400}{']' * 400}",
    "long_number": f"optim.lr={'9' * 5000}",
    "long_text": f"optim.lr={'x' * 5000}",
    "control_title": "backbone.title=a\x1b[31mb",
    "bidi_title": "backbone.title=a\u202eb",
    "long_path": "/tmp/" + "x" * 300,
}


class Materials:
    """Fills `{name}` in words with the path of what has that name, or with one of `WORDS`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, str] = {}

    def fill(self, word: str) -> str:
        return _NAME.sub(lambda match: self._get(match[1], match[0]), word)

    def _get(self, name: str, otherwise: str) -> str:
        if name in WORDS:
            return WORDS[name]
        makers = globals() | vars(images) | vars(lists) | vars(checkpoints) | vars(results)
        if f"make_{name}" not in makers:
            return otherwise
        if name not in self._made:
            place = self.folder / name
            made = makers[f"make_{name}"](place)
            self._made[name] = str(made or place)
        return self._made[name]


def make_nowhere(place: Path) -> None:
    pass


def make_file(place: Path) -> None:
    place.write_text("just a file")


def make_taken(place: Path) -> None:
    """Files of others by the name of everything that is written."""
    for ending in ("onnx", "pt2", "csv"):
        place.with_suffix(f".{ending}").write_bytes(b"\xff of others")


def make_taken_peft(place: Path) -> None:
    place.mkdir()
    (place / "adapter_model.safetensors").write_text("of others")


def make_taken_advice(place: Path) -> None:
    place.mkdir()
    (place / "model.safetensors").write_text("of others")


def make_taken_page(place: Path) -> None:
    place.mkdir()
    (place / "advice.html").write_text("<!doctype html><title>of others</title>")


def make_taken_site(place: Path) -> None:
    place.mkdir()
    (place / "index.html").write_text("<!doctype html><title>of others</title>")


def make_taken_tables(place: Path) -> None:
    place.mkdir()
    (place / "leaderboard.md").write_text("# Leaderboard of others")


def make_empty_folder(place: Path) -> None:
    place.mkdir()


def make_loop(place: Path) -> None:
    place.symlink_to(place)


def make_text_json(place: Path) -> Path:
    return _written(place, b"no record")


def make_list_json(place: Path) -> Path:
    return _written(place, b"[1, 2]")


def make_empty_json(place: Path) -> Path:
    return _written(place, b"")


def make_other_json(place: Path) -> Path:
    return _written(place, b'{"a": 1}')


def make_bytes_json(place: Path) -> Path:
    return _written(place, b"\xff\xfe\x00")


def make_folder_json(place: Path) -> Path:
    place = place.with_suffix(".json")
    place.mkdir()
    return place


def make_store(place: Path) -> None:
    store = Store(place)
    for seed in range(2):
        store.put(record_factory.make_record(seed=seed))


def make_record(place: Path) -> Path:
    make_store(place)
    return Store(place).record_files()[0]


def make_bad_store(place: Path) -> None:
    folder = place / "records" / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 16}.json").write_text("{}")


def _written(place: Path, content: bytes) -> Path:
    path = place.with_suffix(".json")
    path.write_bytes(content)
    return path
