"""The same words a second time: answer from a note, before torch or Hydra are imported.

After a cell is done its words, the state of this package's files and of all the cell's inputs are noted, together with
its record. Repeating the words while nothing of that has changed needs no configuration and no fingerprint. The
note is only a shortcut: whenever anything differs, the cell is planned in full and found by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftbench.foundation.digests import file_state, settled
from peftbench.foundation.errors import BadInput
from peftbench.foundation.plugins import plugins

PACKAGE = Path(__file__).resolve().parents[1]
_ABSENT = b"absent"


def can_be_noted(words: list[str]) -> bool:
    """Whether words mean the same whenever they are said: not where Hydra looks up something, or is told where to."""
    return not any("${" in word or word.lstrip("+~").startswith("hydra") for word in words)


def note_file(words: list[str], cache_dir: Path) -> Path:
    """Where the note for these words, spoken in this folder with this source tree, is kept."""
    environment = {key: value for key, value in os.environ.items() if key.startswith(("PEFTBENCH_", "HF_"))}
    key = json.dumps([words, str(Path.cwd()), _source_state(), environment], sort_keys=True)
    return cache_dir / "finished" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def finished_record(words: list[str], cache_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record these words led to and what it said, if record and inputs are as they were; else None."""
    if not can_be_noted(words):
        return None
    try:
        note = json.loads(note_file(words, cache_dir).read_text())
        record, folder = note["record"], note["folder"]
        inputs = [os.path.join(folder, name) for name in note["inputs"]]  # noqa: PTH118 - there may be 100,000
        if note["state"] == _digest([_state(path) for path in [record, *inputs]]):
            return Path(record), note["summary"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None


def note_finished(
    words: list[str], cache_dir: Path, record: Path, inputs: Iterable[Path], summary: dict[str, Any], planned_ns: int
) -> None:
    """Remember that `words` led to `record`. A cache folder that cannot be written is no reason to fail.

    planned_ns: when the cell was planned. Nothing is noted where an input may have changed since: then the record
    would stand beside the new state of the input and not beside the one it was made from.
    """
    if not can_be_noted(words):
        return
    paths = [str(path.absolute()) for path in inputs]
    states = [_state(path) for path in paths]
    if not all(state == _ABSENT or settled(state, planned_ns) for state in states):
        return
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120
    note = {
        "record": str(record.absolute()),
        "folder": folder,
        "inputs": [path.removeprefix(folder).lstrip(os.sep) for path in paths],
        "state": _digest([_state(record.absolute()), *states]),
        "summary": summary,
    }
    target = note_file(words, cache_dir)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as stream:
            stream.write(json.dumps(note))
        Path(stream.name).replace(target)
    except OSError:
        pass


def _state(path: Path | str) -> bytes:
    try:
        return file_state(path)
    except BadInput:
        return _ABSENT


def _digest(states: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(states)).hexdigest()


def _source_state() -> str:
    """Digest over name and state of every file that the package and its plug-ins read."""
    configs = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
    digest = hashlib.sha256()
    for root in (PACKAGE, configs, *(plugin.folder for plugin in plugins())):
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                path = os.path.join(folder, name)  # noqa: PTH118
                digest.update(path.encode("utf-8", "surrogateescape") + _state(path))
    return digest.hexdigest()
