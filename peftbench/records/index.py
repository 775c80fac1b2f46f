"""The index: rows of records already read, so that a leaderboard reads only what is new.

It is a cache and nothing else: it may be deleted at any time, and is made anew when the code that fills it changes.
Several processes may use one at once: each replaces the file as a whole, and a lost update is only read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peftbench.foundation.cores import available_cores
from peftbench.foundation.entries import scanned
from peftbench.foundation.errors import RecordError, printable
from peftbench.foundation.files import replace_bytes
from peftbench.foundation.progress import Bar, Progress
from peftbench.records import collect, record
from peftbench.records.packed import SUFFIX, read_pack
from peftbench.records.reading import read_record, second_file
from peftbench.records.record import RunRecord
from peftbench.records.store import Store

# Rows are turned into columns in batches of this many, so that no more records are in memory at once.
_BATCH = 2_000
_OWN = ("file", "stamp", "problem")
_KINDS = {"seed": pa.int64(), "steps": pa.bool_()}
_TEXT = pa.dictionary(pa.int32(), pa.string())


def read_rows(
    store: Store, use_index: bool = True, num_workers: int = 1, bar: Bar | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Rows of all readable records (see `collect`), ordered by fingerprint, and one line for each file that is none.

    With `use_index` only files that are new or changed (by time and size) since the last call are read, and
    `<root>/work/index/records.parquet` is brought up to date. Where that cannot be written, all goes on without it.
    Several thousand files are read by `num_workers` processes and shown by `bar`; more than one process asks for a main
    module that is guarded.
    """
    path = store.work_folder / "index" / "records.parquet"
    stamps = dict(_files(store.records_folder))
    known = _load(path) if use_index else None
    kept = _still_valid(known, stamps) if known is not None else _SCHEMA.empty_table()
    present = set(kept["file"].unique().to_pylist())
    new = [name for name in stamps if name not in present]
    read = _read(store.records_folder, new, stamps, num_workers, bar)
    table = pa.concat_tables([kept, *read]).unify_dictionaries()
    # a folder without records is left as it is
    if use_index and (new or (known is None and stamps) or (known is not None and len(kept) != len(known))):
        with contextlib.suppress(RecordError):
            _save(path, table)
    return _result(store.records_folder, table)


def read_reported(root: Path, use_index: bool) -> pd.DataFrame:
    """The rows for a command: read by all cores, with a bar and, for each file that is no record, a line on stderr."""
    rows, skipped = read_rows(Store(root), use_index, available_cores(), Progress().counted)
    say_skipped(skipped)
    return rows


def say_skipped(problems: Iterable[str]) -> None:
    """A line on stderr for each file that is no record, whatever its name or content holds."""
    for problem in problems:
        print(f"skipped {printable(problem)}", file=sys.stderr)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """(path within the folder, time and size) of each file that should hold records, in no particular order.

    Raises what `foundation.system.unreadable` says of a folder: tables would lack its rows.
    """
    levels = [(folder, 0)]
    while levels:
        parent, depth = levels.pop()
        for entry in scanned(parent):
            suffix = ".json" if depth == 3 else SUFFIX if depth == 0 else None
            if suffix and entry.name.endswith(suffix):
                if not entry.name.startswith("."):
                    yield os.path.relpath(entry.path, folder), _stamp(entry)
            elif depth < 3 and _is_folder(entry):
                levels.append((Path(entry.path), depth + 1))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(entry: os.DirEntry[str]) -> str:
    """Time and size of a file; of one that cannot be looked at, nothing that is ever the same again."""
    try:
        stat = entry.stat()
    except OSError:
        return f"unseen:{time.time_ns()}"
    return f"{stat.st_mtime_ns}:{stat.st_size}"


def _read(
    folder: Path, names: Iterable[str], stamps: dict[str, str], num_workers: int, bar: Bar | None
) -> Iterator[pa.Table]:
    ordered = sorted(names)
    batches = [ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH)]
    jobs = [(folder, {name: stamps[name] for name in batch}) for batch in batches]
    if len(jobs) <= 2:
        yield from itertools.chain.from_iterable(map(_read_batch, jobs))
        return
    with contextlib.ExitStack() as stack:
        step = stack.enter_context(
            bar("reading records", len(ordered)) if bar else contextlib.nullcontext(lambda done: None)
        )
        run: Callable[..., Iterator[list[pa.Table]]] = map
        if num_workers > 1:
            workers = min(num_workers, len(jobs))
            run = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))).map
        for (_, batch), tables in zip(jobs, run(_read_batch, jobs), strict=True):
            yield from tables
            step(len(batch))


def _read_batch(job: tuple[Path, dict[str, str]]) -> list[pa.Table]:
    folder, stamps = job
    tables, rows = [], []
    for name, stamp in stamps.items():
        for row in _rows_of(folder / name):
            rows.append({**row, "file": name, "stamp": stamp})
            if len(rows) == _BATCH:
                tables.append(_columns(rows))
                rows = []
    return [*tables, _columns(rows)] if rows else tables


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    try:
        entries = read_pack(path) if path.name.endswith(SUFFIX) else [read_record(path)]
        for entry in entries:
            yield collect.row(entry) if isinstance(entry, RunRecord) else {"problem": str(entry)}
    except RecordError as error:
        yield {"problem": str(error)}


def _columns(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as columns; in place of a row with a value that its column cannot hold, the problem."""
    try:
        return _table(rows)
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        if len(rows) == 1:
            own = {name: rows[0][name] for name in ("file", "stamp")}
            return _table([own | {"problem": f"{rows[0]['file']}: holds a value that tables cannot ({error})"}])
        return pa.concat_tables([_columns([row]) for row in rows])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    arrays = [
        pa.array([None if (value := row.get(field.name)) is None else _as(field, value) for row in rows], field.type)
        for field in _SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _as(field: pa.Field, value: Any) -> Any:
    return float(value) if field.type == pa.float64() else value


def _still_valid(known: pa.Table, stamps: dict[str, str]) -> pa.Table:
    """The known rows whose file is still there with the same time and size."""
    files, marks = _objects(known["file"]), _objects(known["stamp"])
    return known.filter(pa.array([stamps.get(f) == m for f, m in zip(files, marks, strict=True)], pa.bool_()))


def _load(path: Path) -> pa.Table | None:
    """The index, or None when there is none, it is damaged, or other code wrote it."""
    try:
        # read whole before parsing: a writer may replace the file meanwhile
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(_SCHEMA, check_metadata=True) else None


def _save(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    replace_bytes(path, sink.getvalue())


def _result(folder: Path, table: pa.Table) -> tuple[pd.DataFrame, list[str]]:
    columns: dict[str, Any] = {name: _objects(table[name]) for name in (*collect.COLUMNS, *_OWN)}
    problems, files = columns["problem"], columns["file"]
    order = sorted(
        (index for index, problem in enumerate(problems) if problem is None),
        key=lambda index: (columns["fingerprint"][index], files[index].endswith(SUFFIX), files[index]),
    )
    skipped = [(files[index], problem) for index, problem in enumerate(problems) if problem is not None]
    chosen: list[int] = []
    for index in order:
        if chosen and columns["fingerprint"][chosen[-1]] == columns["fingerprint"][index]:
            first = chosen[-1]
            same = all(columns[name][first] == columns[name][index] for name in collect.COLUMNS)
            if not (same and files[index].endswith(SUFFIX)):
                skipped.append((files[index], second_file(folder / files[index], columns["fingerprint"][index])))
            continue
        chosen.append(index)
    frame = pd.DataFrame({name: pd.Series(columns[name][chosen], dtype=object) for name in collect.COLUMNS})
    return frame, [line for _, line in sorted(skipped)]


def _objects(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.object_]]:
    """Python values, None where unknown; equal texts are one object."""
    if not pa.types.is_dictionary(column.type):
        result = np.empty(len(column), dtype=object)
        result[:] = column.to_pylist()
        return result
    parts = []
    shared: dict[str, str] = {}
    for chunk in column.chunks:
        words = np.array([*(shared.setdefault(w, w) for w in chunk.dictionary.to_pylist()), None], dtype=object)
        parts.append(words[chunk.indices.fill_null(-1).to_numpy()])
    return np.concatenate(parts) if parts else np.empty(0, dtype=object)


def _schema() -> pa.Schema:
    """Columns of the index. Its metadata names the code that fills it: no one has to remember to raise a version."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (collect, record))
    fields = [
        pa.field(name, _KINDS.get(name, pa.float64() if name in collect.NUMBERS else _TEXT))
        for name in (*collect.COLUMNS, *_OWN)
    ]
    return pa.schema(fields, metadata={"code": hashlib.sha256(code + Path(__file__).read_bytes()).hexdigest()})


_SCHEMA = _schema()
