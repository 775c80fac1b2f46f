"""`python -m peftbench export RECORD FILE`: a record's adapter as one file to share, for plain timm models."""

from __future__ import annotations

from pathlib import Path

from peftbench.cells.export import export_record
from peftbench.cells.restore import find_record
from peftbench.cli.arguments import Arguments, a_file, a_folder


def main(words: list[str]) -> int:
    """Exit code 0 once the file is written."""
    parser = Arguments(prog="peftbench export", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument("file", type=a_file, help="the file to write (.safetensors)")
    parser.add_argument("options", nargs="*", help="where inputs are on this machine, e.g. dataset.root=DIR")
    parser.add_argument("--results", type=a_folder, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args(words)
    record, store = find_record(arguments.record, arguments.results)
    path = export_record(record, store, arguments.options, arguments.file)
    print(f"wrote {path}: {record.labels['method']} on {record.labels['dataset']}, {path.stat().st_size:,} bytes")
    return 0
