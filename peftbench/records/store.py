"""Store: the folder of records. A record is written once, whole, and never changed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from peftbench.foundation.entries import matching
from peftbench.foundation.errors import AlreadyRecorded, BadInput, HeldPacked, RecordError
from peftbench.foundation.files import create_text, replace_bytes, replace_text
from peftbench.records.packed import SUFFIX, packed_fingerprints, read_pack, unpack_one
from peftbench.records.reading import read_record, second_file
from peftbench.records.record import RunRecord

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Failure:
    """Why a cell has no record. Kept apart from the records, so that no reader of results has to filter.

    `state` is `failed`, or `not applicable` where the method has no meaning on the backbone.
    """

    fingerprint: str
    labels: dict[str, str]
    message: str
    traceback: str
    state: str = "failed"


class Store:
    """Records under `<root>/records/<backbone>/<method>/<dataset>/<fingerprint>.json`; the rest under `<root>/work/`.

    Records may also be packed, many in one `<root>/records/<name>.jsonl.gz`: they are found and read like the others.
    `records/` belongs in version control; `work/` (adapters, predictions, failures) does not. `adapters/` holds a few
    adapters that are committed, each with its record.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.records_folder = self.root / "records"
        self.work_folder = self.root / "work"
        self._packed: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}

    def path_of(self, labels: Mapping[str, str], fingerprint: str) -> Path:
        """Where the record of a cell belongs. The method's folder leaves out departures: `lora (rank=16)` -> `lora`."""
        method = labels["method"].split(" (")[0]
        folders = [_folder_name(name) for name in (labels["backbone"], method, labels["dataset"])]
        return self.records_folder.joinpath(*folders, f"{_checked(fingerprint)}.json")

    def find(self, fingerprint: str, labels: Mapping[str, str] | None = None) -> Path | None:
        """The record's file or the pack that holds it, or None. Reads no record.

        With `labels` a hit costs one look at the disk.
        """
        if labels is not None:
            expected = self.path_of(labels, fingerprint)
            if expected.is_file():
                return expected
        name = _checked(fingerprint)
        plain = next(matching(self.records_folder, f"*/*/*/{name}.json"), None)
        return plain or next((pack for pack in self.packs() if name in self._packed_in(pack)), None)

    def packs(self) -> list[Path]:
        """The packed files, by name."""
        return sorted(path for path in matching(self.records_folder, f"*{SUFFIX}") if not path.name.startswith("."))

    def packed(self) -> dict[str, Path]:
        """The pack of each packed record, by fingerprint."""
        return {name: pack for pack in self.packs() for name in self._packed_in(pack)}

    def places(self) -> dict[str, Path]:
        """What `find` answers for each record, by fingerprint, from names alone: for looking up many at once."""
        plain = {path.stem: path for path in self.record_files() if _FINGERPRINT.fullmatch(path.stem)}
        return self.packed() | plain

    def fingerprints(self) -> set[str]:
        """Fingerprints of all records, from names alone."""
        return set(self.places())

    def get(self, fingerprint: str) -> RunRecord:
        """The record with this fingerprint; raises `RecordError` when there is none or it cannot be read."""
        fingerprint = _checked(fingerprint)
        path = self.find(fingerprint)
        if path is None:
            raise RecordError(f"no record {fingerprint} under {self.records_folder}")
        return unpack_one(path, fingerprint) if path.name.endswith(SUFFIX) else read_record(path)

    def put(self, record: RunRecord, replace: bool = False) -> Path:
        """Write a record, atomically and exclusively. With `replace`, an older one goes to `work/replaced/` first.

        Raises what `to_replace` raises, and `RecordError` when the disk refuses.
        """
        path = self.path_of(record.labels, record.fingerprint)
        existing = self.to_replace(record.labels, record.fingerprint, replace)
        if existing is not None:
            self.keep_replaced(existing)
            replace_text(existing, record.to_json())
            return existing
        try:
            create_text(path, record.to_json())
        except FileExistsError:
            raise _already_recorded(path) from None
        return path

    def to_replace(self, labels: Mapping[str, str], fingerprint: str, replace: bool) -> Path | None:
        """The file that a new record of this cell would replace, None where there is none; nothing is changed.

        Raises `AlreadyRecorded` where there is one that is not to be replaced, and `HeldPacked` where it is packed.
        """
        existing = self._in_the_way(self.path_of(labels, fingerprint))
        if existing is not None and not replace:
            raise _already_recorded(existing)
        if existing is not None and existing.name.endswith(SUFFIX):
            raise HeldPacked(self.held_packed(existing))
        return existing

    def held_packed(self, pack: Path) -> str:
        """What to say where a cell is to be measured again whose record is in this pack."""
        return f"{pack} holds this cell packed; unpack it to measure again: {self.unpack_words(pack)}"

    def unpack_words(self, pack: Path) -> str:
        """The command that turns a pack back into record files."""
        return f"pack {pack.name.removesuffix(SUFFIX)} --unpack --results {shlex.quote(str(self.root))}"

    def _in_the_way(self, path: Path) -> Path | None:
        """What `find` finds of this record. A folder of others that was closed since costs no training that is done."""
        try:
            return path if path.is_file() else self.find(path.stem)
        except BadInput:
            return next((pack for pack in self.packs() if path.stem in self._packed_in(pack)), None)

    def read(self, fingerprints: Set[str]) -> Iterator[RunRecord]:
        """Those of the records that are here and whole, each once, in no stated order."""
        left = set(fingerprints)
        for path in self.record_files():
            if path.stem in left:
                with contextlib.suppress(RecordError):
                    yield read_record(path)
                    left.discard(path.stem)
        for pack in self.packs():
            for entry in read_pack(pack) if left & self._packed_in(pack) else ():
                if isinstance(entry, RunRecord) and entry.fingerprint in left:
                    left.discard(entry.fingerprint)
                    yield entry

    def scan(self) -> tuple[list[RunRecord], list[str]]:
        """All records that can be read, in order of their paths, packed ones last, and one line for each problem."""
        records: dict[str, RunRecord] = {}
        skipped: list[str] = []
        for path in self.record_files():
            try:
                record = read_record(path)
                if record.fingerprint in records:
                    raise RecordError(second_file(path, record.fingerprint))
                records[record.fingerprint] = record
            except RecordError as error:
                skipped.append(str(error))
        for pack in self.packs():
            for entry in read_pack(pack):
                if isinstance(entry, RecordError):
                    skipped.append(str(entry))
                elif records.setdefault(entry.fingerprint, entry) != entry:
                    skipped.append(second_file(pack, entry.fingerprint))
        return list(records.values()), skipped

    def all(self) -> Iterator[RunRecord]:
        """All readable records; a warning names each file that is not one. See `scan` to get these as a list."""
        records, skipped = self.scan()
        for line in skipped:
            warnings.warn(f"skipped {line}", stacklevel=2)
        yield from records

    def adapter_path(self, fingerprint: str) -> Path:
        """Where a cell's trained tensors belong (safetensors); the folder may not exist yet."""
        return self.work_folder / "adapters" / f"{_checked(fingerprint)}.safetensors"

    def shipped(self, fingerprint: str, suffix: str) -> Path:
        """Where a record (.json) and adapter (.safetensors) that are committed together are, if they are."""
        return self.root / "adapters" / f"{_checked(fingerprint)}{suffix}"

    def predictions_path(self, fingerprint: str) -> Path:
        """Where a cell's test predictions belong (npy, class per image); the folder may not exist yet."""
        return self.work_folder / "predictions" / f"{_checked(fingerprint)}.npy"

    def picture_path(self, fingerprint: str) -> Path:
        """Where a picture of a cell's test images belongs (png), for the report; the folder may not exist yet."""
        return self.work_folder / "pictures" / f"{_checked(fingerprint)}.png"

    def put_failure(
        self, fingerprint: str, labels: Mapping[str, str], message: str, traceback: str, state: str = "failed"
    ) -> Path:
        """Note that a cell failed, replacing an older note of the same cell."""
        path = self.failure_path(fingerprint)
        failure = Failure(fingerprint, dict(labels), message, traceback, state)
        replace_text(path, json.dumps(dataclasses.asdict(failure), indent=1) + "\n")
        return path

    def failures(self) -> list[Failure]:
        """All notes of failed cells, by fingerprint; raises `RecordError` for a note that cannot be read."""
        return [_read_failure(path) for path in matching(self.work_folder / "failures", "*.json")]

    def failure(self, fingerprint: str) -> Failure | None:
        """The note of one failed cell, or None; raises `RecordError` when it cannot be read."""
        path = self.failure_path(fingerprint)
        return _read_failure(path) if path.is_file() else None

    def clear_failure(self, fingerprint: str) -> None:
        """Forget that a cell failed; nothing happens when it did not."""
        self.failure_path(fingerprint).unlink(missing_ok=True)

    def failure_path(self, fingerprint: str) -> Path:
        """Where the note of a failed cell is kept."""
        return self.work_folder / "failures" / f"{_checked(fingerprint)}.json"

    def _packed_in(self, pack: Path) -> frozenset[str]:
        """Fingerprints in a pack, remembered while the file stays as it is; empty for a file that is no pack."""
        try:
            found = pack.stat()
        except OSError:
            return frozenset()
        stamp = found.st_mtime_ns, found.st_size
        if self._packed.get(pack, ((0, 0), None))[0] != stamp:
            try:
                self._packed[pack] = stamp, packed_fingerprints(pack)
            except RecordError:
                self._packed[pack] = stamp, frozenset()
        return self._packed[pack][1]

    def keep_replaced(self, existing: Path, name: str = "") -> Path:
        """A copy, in `work/replaced/`, of a file that a new measurement is about to replace: `<name>.<digest>.json`.

        `name` is that of the file unless told otherwise, for a record its fingerprint.
        """
        # bytes, since a damaged one need not be text
        content = existing.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:8]
        kept = self.work_folder / "replaced" / f"{name or existing.stem}.{digest}.json"
        replace_bytes(kept, content)
        return kept

    def replaced_since(self, fingerprint: str, time_ns: int) -> bool:
        """Whether a record of this cell was replaced after this time, from the copies kept of replaced ones."""
        kept = matching(self.work_folder / "replaced", f"{_checked(fingerprint)}.*.json")
        return any(path.stat().st_mtime_ns > time_ns for path in kept)

    def record_files(self) -> list[Path]:
        """The files of records that are not packed, by path."""
        return sorted(path for path in matching(self.records_folder, "*/*/*/*.json") if not path.name.startswith("."))


def _checked(fingerprint: str) -> str:
    """As files are named: whoever types one may write it in capitals."""
    name = fingerprint.lower()
    if not _FINGERPRINT.fullmatch(name):
        raise RecordError(f"'{fingerprint}' is not a fingerprint (16 hexadecimal digits)")
    return name


def _folder_name(label: str) -> str:
    """A label as one folder name: `vtab/dtd` -> `vtab__dtd`; any other character that paths treat specially -> `_`."""
    name = "".join(c if c.isalnum() or c in "._-+=" else "_" for c in label.replace("/", "__"))
    if name.startswith("."):
        name = "_" + name[1:]
    return name[:100]


def _already_recorded(path: Path) -> AlreadyRecorded:
    return AlreadyRecorded(f"{path} already holds this cell and is never overwritten; delete it to measure again")


def _read_failure(path: Path) -> Failure:
    try:
        return Failure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RecordError(f"{path}: not a note of a failed cell ({error}); delete it") from None
