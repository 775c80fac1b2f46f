"""The same words a second time: answer from a note, before torch or Hydra are imported.

After a cell is done its words, the state of this package's files and of the cell's inputs are noted, together with
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

PACKAGE = Path(__file__).resolve().parents[1]


def note_file(words: list[str], cache_dir: Path) -> Path:
    """Where the note for these words, spoken in this folder with this source tree, is kept."""
    environment = {key: value for key, value in os.environ.items() if key.startswith("PEFTBENCH_")}
    key = json.dumps([words, str(Path.cwd()), _source_state(), environment], sort_keys=True)
    return cache_dir / "finished" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def finished_record(words: list[str], cache_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record these words led to and what it said, if record and inputs are as they were; else None."""
    try:
        note = json.loads(note_file(words, cache_dir).read_text())
        if all(_state(Path(path)) == state for path, state in note["files"].items()):
            return Path(note["record"]), note["summary"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    return None


def note_finished(
    words: list[str], cache_dir: Path, record: Path, inputs: Iterable[Path], summary: dict[str, Any]
) -> None:
    """Remember that `words` led to `record`. A cache folder that cannot be written is no reason to fail."""
    files = {str(path.resolve()): _state(path) for path in (record, *inputs)}
    note = {"record": str(record), "files": files, "summary": summary}
    target = note_file(words, cache_dir)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False) as stream:
            stream.write(json.dumps(note))
        Path(stream.name).replace(target)
    except OSError:
        pass


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _source_state() -> str:
    """Digest over name, size and time of every file of the package and of its configs."""
    configs = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
    digest = hashlib.sha256()
    for root in (PACKAGE, configs):
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.yaml"), *root.rglob("*.csv")]):
            digest.update(f"{path}:{_state(path)}".encode())
    return digest.hexdigest()
