"""`python -m peftbench export RECORD FILE`: a record's adapter to share, in the form that FILE's ending asks for."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftbench.cells.export import FORMS, card_of, export_record
from peftbench.cells.restore import find_record
from peftbench.cli.arguments import Arguments, a_file, a_folder
from peftbench.foundation.errors import brief


def main(words: list[str]) -> int:
    """Exit code 0 once the file, or the folder, and its card are written."""
    parser = Arguments(prog="peftbench export", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument(
        "file",
        type=_target,
        help="FILE.safetensors for peftbench and timm, FILE.onnx, FILE.pt2 (torch.export), or a folder: "
        "Hugging Face PEFT's format, for methods of low-rank pairs",
    )
    parser.add_argument("options", nargs="*", help="where inputs are on this machine, e.g. dataset.root=DIR")
    parser.add_argument("--results", type=a_folder, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args(words)
    record, store = find_record(arguments.record, arguments.results)
    path = export_record(record, store, arguments.options, arguments.file)
    print(f"wrote {path}: {record.labels['method']} on {record.labels['dataset']}; its card is {card_of(path)}")
    return 0


def _target(named: str) -> Path:
    """Where to write: a file with an ending of `FORMS`, or a folder."""
    suffix = Path(named).suffix
    if suffix not in FORMS:
        raise argparse.ArgumentTypeError(
            f"export writes no '{brief(suffix)}' files: end in .safetensors (peftbench and timm), .onnx or .pt2 "
            "(torch.export), or name a folder (Hugging Face PEFT's format)"
        )
    return a_file(named) if suffix else a_folder(named)
