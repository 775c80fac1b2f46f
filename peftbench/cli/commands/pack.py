"""`python -m peftbench pack NAME`: many record files -> one compressed file that is committed in their place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from peftbench.cli.arguments import Arguments, a_folder
from peftbench.foundation.errors import ConfigError, MissingInput, RecordError
from peftbench.foundation.files import create_text, locked
from peftbench.foundation.progress import Progress
from peftbench.records.packed import OWN, PACKED, SUFFIX, holds_exactly, read_pack, to_line, write_lines
from peftbench.records.reading import read_record
from peftbench.records.record import RunRecord
from peftbench.records.store import Store

_FILTERS = ("backbone", "method", "dataset", "protocol")


def main(words: list[str]) -> int:
    """Exit code 0. Raises `RecordError` when a file cannot be written or read, `MissingInput` when nothing matches."""
    arguments = _parser().parse_args(words)
    store = Store(arguments.results)
    path = store.records_folder / f"{_name(arguments.name)}{SUFFIX}"
    if not store.records_folder.is_dir():
        raise MissingInput(f"no record files under {store.records_folder}; --results is another folder")
    # one at a time: two that read a pack before either writes it would each lose what the other moved
    with locked(store.work_folder / "pack.lock"):
        if arguments.unpack:
            print(f"{unpack(store, path)} records unpacked from {path}")
        elif path.name in (f"{OWN}{SUFFIX}", f"{PACKED}{SUFFIX}"):
            taken = f"'{OWN}' stands for records in no pack, '{PACKED}' for all packs (leaderboard --suite)"
            raise ConfigError([f"{taken}; take another name"])
        else:
            chosen = {name: set(getattr(arguments, name)) for name in _FILTERS if getattr(arguments, name)}
            added, total = pack(store, path, chosen)
            print(f"{path}: {total} records, {added} of them new")
    return 0


def _name(word: str) -> str:
    name = word.removesuffix(SUFFIX)
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ConfigError(
            [f"'{word}' is not a name for a pack; take letters, digits and . _ + = - (it is kept in records/)"]
        )
    return name


def pack(store: Store, path: Path, chosen: dict[str, set[str]]) -> tuple[int, int]:
    """Move the record files with these labels into the pack at `path`; returns (how many were added, its size).

    The files are deleted only after the pack was written and read back. Raises `RecordError` when a file is damaged or
    holds another result than the pack does for the same cell, `MissingInput` when no record matches.
    """
    lines = {record.fingerprint: to_line(record) for record in _whole(path)} if path.exists() else {}
    before = len(lines)
    files: dict[Path, bytes] = {}
    present = store.record_files()
    with Progress().counted("packing", len(present)) as step:
        for file in present:
            record = read_record(file)
            step(1)
            if all(record.labels[name] in names for name, names in chosen.items()):
                line = to_line(record)
                if lines.setdefault(record.fingerprint, line) != line:
                    raise RecordError(f"{file} and {path} hold different results of one cell; delete one of the two")
                files[file] = line
    if not files:
        raise MissingInput(f"no record files with the chosen labels under {store.records_folder}")
    write_lines(path, lines)
    if not holds_exactly(path, lines):
        raise RecordError(f"{path} does not read back as it was written; the record files were left in place")
    for file, line in files.items():
        # one that a worker has measured again meanwhile is another record, and stays
        with contextlib.suppress(FileNotFoundError):
            if to_line(read_record(file)) == line:
                file.unlink()
    # folders that have become empty, from the data sets' up to the backbones'
    folders = {folder for file in files for folder in list(file.parents)[:3]}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()
    return len(lines) - before, len(lines)


def unpack(store: Store, path: Path) -> int:
    """Turn a pack back into record files, byte for byte as they were, and delete it; returns their number."""
    if not path.exists():
        raise MissingInput(f"there is no {path}")
    number = 0
    for record in _whole(path):
        number += 1
        file = store.path_of(record.labels, record.fingerprint)
        with contextlib.suppress(FileExistsError):
            create_text(file, record.to_json())
        if read_record(file) != record:
            raise RecordError(f"{file} and {path} hold different results of one cell; delete one of the two")
    path.unlink()
    return number


def _whole(path: Path) -> Iterator[RunRecord]:
    for entry in read_pack(path):
        if isinstance(entry, RecordError):
            raise entry
        yield entry


def _parser() -> Arguments:
    parser = Arguments.of("pack", __doc__)
    parser.add_argument("name", help=f"records/NAME{SUFFIX} is written, or added to")
    parser.add_argument(
        "--results", type=a_folder, default=Path("results"), help="folder that holds records/ (%(default)s)"
    )
    parser.add_argument("--unpack", action="store_true", help="turn the pack back into files")
    for name in _FILTERS:
        parser.add_argument(f"--{name}", nargs="+", metavar=name.upper(), help=f"only records of these: {name}")
    return parser
