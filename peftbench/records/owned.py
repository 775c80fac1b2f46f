"""The files of a record: written under the name of one attempt, and the record's own once it is in the store.

Two hosts may run one cell at once. Only the one whose record was put gives its files their names, so that a record's
adapter and predictions are always its own; its digests say so to whoever reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from peftbench.foundation.digests import hash_file
from peftbench.foundation.entries import matching
from peftbench.foundation.errors import MissingInput, RecordError
from peftbench.foundation.files import replace_bytes
from peftbench.records.packed import SUFFIX
from peftbench.records.record import RunRecord
from peftbench.records.store import Store

_RERUN = "runtime.on_existing=rerun"
_WITH_ADAPTER = f"runtime.save_adapter=true {_RERUN}"


class Attempt:
    """Files of one run of a cell. They take their names once the record that names them is put."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex[:12]
        self._written: dict[Path, Path] = {}

    def write(self, path: Path, content: bytes) -> str:
        """Write what is to be at `path`; returns its SHA-256 in hex. Raises `RecordError` when the disk refuses."""
        partial = path.with_name(f"{path.stem}.{self._name}{path.suffix}")
        replace_bytes(partial, content)
        self._written[path] = partial
        return hashlib.sha256(content).hexdigest()

    @contextlib.contextmanager
    def kept_after(self) -> Iterator[None]:
        """Within this the record is put: the files take their names if that succeeds and are removed if it does not."""
        try:
            yield
        except BaseException:
            for partial in self._written.values():
                partial.unlink(missing_ok=True)
            raise
        for path, partial in self._written.items():
            partial.replace(path)


def own_adapter(store: Store, record: RunRecord) -> Path:
    """The file of a record's trained tensors, its digest checked.

    Raises `MissingInput` or `RecordError`, and `BadInput` where the folder may not be read.
    """
    if record.adapter is None:
        raise MissingInput(
            f"record {record.fingerprint} was made without keeping its adapter; "
            f"{_again(store, record.fingerprint, _WITH_ADAPTER)}"
        )
    path = store.adapter_path(record.fingerprint)
    found = _own(store, path, record.adapter["sha256"], record.fingerprint)
    shipped = store.shipped(record.fingerprint, ".safetensors")
    if found is None and shipped.is_file() and hash_file(shipped).hex() == record.adapter["sha256"]:
        return shipped
    if found is None:
        raise MissingInput(
            f"there is no adapter at {path}; copy it there, or {_again(store, record.fingerprint, _WITH_ADAPTER)}"
        )
    return found


def own_predictions(store: Store, record: RunRecord) -> np.ndarray | None:
    """A record's predictions [num_test, ...]; None where they were not kept or are not here.

    Raises `RecordError` when what is here is not the record's.
    """
    if record.predictions is None:
        return None
    path = store.predictions_path(record.fingerprint)
    found = _own(store, path, record.predictions["sha256"], record.fingerprint)
    if found is None:
        return None
    try:
        classes = np.load(found, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RecordError(f"{found}: not predicted classes ({error})") from None
    if not isinstance(classes, np.ndarray) or classes.shape[:1] != (record.predictions["n"],):
        raise RecordError(f"{found}: not the predicted classes of {record.predictions['n']:,} images")
    return classes


def predictions_bytes(classes: np.ndarray) -> bytes:
    """Predicted classes as the file that a record names."""
    buffer = io.BytesIO()
    np.save(buffer, classes, allow_pickle=False)
    return buffer.getvalue()


def _again(store: Store, fingerprint: str, words: str) -> str:
    """What to do for files anew of a record: run its cell again, which a packed record has to be unpacked for."""
    held = store.find(fingerprint)
    first = f"{store.unpack_words(held)} first, then " if held is not None and held.name.endswith(SUFFIX) else ""
    return f"{first}run the cell again with {words}"


def _own(store: Store, path: Path, sha256: str, fingerprint: str) -> Path | None:
    """The file with that digest: under its name, or that of an attempt which was killed after its record was put."""
    try:
        present = [file for file in (path, *matching(path.parent, f"{path.stem}.*{path.suffix}")) if file.is_file()]
        for file in present:
            if hash_file(file).hex() == sha256:
                return file
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    if not path.is_file():
        return None
    raise RecordError(
        f"{path} is not the file that record {fingerprint} was made with (its SHA-256 is not {sha256[:12]}...); "
        f"put the right one there, or {_again(store, fingerprint, _RERUN)}"
    )
