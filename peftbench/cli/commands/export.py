"""`python -m peftbench export RECORD FILE`: a record's adapter to share, in the form that FILE's ending asks for."""

from __future__ import annotations

import argparse
import re

from peftbench.adapters.hub import push, ready_to_push
from peftbench.cells.export import card_of, export_record, files_of, is_one_file
from peftbench.cells.restore import find_record
from peftbench.cli.arguments import Arguments, a_file, a_folder
from peftbench.cli.record_words import FINDING, refuse_unused, results_folder
from peftbench.foundation.errors import ConfigError, brief
from peftbench.foundation.location import user_path
from peftbench.foundation.terminal import print_fitted


def main(words: list[str]) -> int:
    """Exit code 0 once the file, or the folder, and its card are written."""
    parser = Arguments.of("export", __doc__)
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument(
        "file",
        type=_target,
        help="FILE.safetensors for peftbench and timm, FILE.onnx, FILE.pt2 (torch.export), or a folder: "
        "Hugging Face PEFT's format, for methods of low-rank pairs. A new folder whose name has an ending: FOLDER/",
    )
    parser.add_argument(
        "options", nargs="*", default=[], help="where inputs are on this machine, e.g. dataset.root=DIR"
    )
    parser.add_argument("--results", type=a_folder, help="results folder (default: results)")
    parser.add_argument(
        "--push",
        type=_repo,
        metavar="OWNER/NAME",
        help="also put file and card into this model repository of the Hugging Face hub (token: HF_TOKEN)",
    )
    parser.add_argument("--private", action="store_true", help="a repository that --push makes is private")
    arguments = parser.parse_args(words)
    if arguments.private and arguments.push is None:
        raise ConfigError(["export: --private says what --push makes; add --push OWNER/NAME"])
    refuse_unused("export", arguments.options, FINDING)
    record, store = find_record(arguments.record, results_folder(arguments.results, arguments.options))
    if arguments.push is not None:
        ready_to_push()
    path = export_record(record, store, arguments.options, arguments.file, arguments.push)
    what = f"{record.labels['method']} on {record.labels['dataset']}"
    print_fitted(f"wrote {path}: {what}; its card is {card_of(path)}")
    if arguments.push is not None:
        message = f"{what}, exported by peftbench from record {record.fingerprint}"
        print(f"pushed to {push(files_of(path), arguments.push, arguments.private, message)}")
    return 0


def _repo(named: str) -> str:
    """OWNER/NAME as the hub allows it."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", named, re.ASCII) or ".." in named:
        raise argparse.ArgumentTypeError(f"a repository is written OWNER/NAME, got {brief(named)}")
    return named


def _target(named: str) -> str:
    """Where to write: a file with an ending of `FORMS`, or a folder, told by a slash behind it."""
    path = user_path(named, "the path")
    if named.endswith("/") or not path.suffix or path.is_dir():
        return f"{a_folder(named)}/"
    if not is_one_file(path):
        raise argparse.ArgumentTypeError(
            f"export writes no '{brief(path.suffix)}' files: end in .safetensors (peftbench and timm), .onnx or .pt2 "
            "(torch.export), or name a folder (Hugging Face PEFT's format), a new one with a / behind it"
        )
    return str(a_file(named))
