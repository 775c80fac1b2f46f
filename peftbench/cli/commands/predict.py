"""`python -m peftbench predict MODEL FILES`: classes and probabilities of new images, as CSV."""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from pathlib import Path

from peftbench.adapters.hf_peft import CONFIG
from peftbench.adapters.predictor import Predictor, image_files, snippet
from peftbench.cells.export import export_record, is_one_file
from peftbench.cells.restore import find_record
from peftbench.cli.arguments import Arguments, a_csv, a_folder
from peftbench.cli.record_words import DEVICE, FINDING, refuse_unused, results_folder
from peftbench.cli.tables import check_table
from peftbench.config.gate import FIXED
from peftbench.config.overrides import TOP, named_paths, option_values, quoted
from peftbench.config.parts import NAMED
from peftbench.foundation.errors import BadInput, ConfigError, PeftbenchError, brief, error_line, printable
from peftbench.foundation.files import replace_text
from peftbench.foundation.progress import Progress

COLUMNS = ("file", "class", "probability")
# images and folders named one by one of those that cannot be read
MOST_NAMED = 20
CHECKPOINT = "backbone.checkpoint"
# options that have a use: an exported file is whole but for weights that it does not hold
_OF_FILE, _OF_RECORD = (CHECKPOINT, DEVICE), (DEVICE, *FINDING)


def main(words: list[str]) -> int:
    """Exit code 0 once every image has its line; 1 when some have none, because they or their folder cannot be read.

    Raises `BadInput` when no image can be read.
    """
    in_python = "The same in Python: " + "; ".join(snippet("MODEL").splitlines())
    parser = Arguments.of("predict", __doc__, in_python)
    parser.add_argument("model", help="a file of 'export' or 'advise', or a record's file or fingerprint")
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, or folders that hold them; section.option=value. What cannot be read is named on stderr, "
        "and the exit code is 1",
    )
    parser.add_argument("--out", type=a_csv, help="the CSV to write (default: the terminal)")
    parser.add_argument("--all", action="store_true", help="a column with the probability of every class")
    parser.add_argument(
        "--checkpoint", help=f"the backbone's weights where they came from a file, or {CHECKPOINT}=FILE"
    )
    parser.add_argument("--device", help=f"auto, cpu, cuda or cuda:N (default: auto), or {DEVICE}=...")
    parser.add_argument("--results", type=a_folder, help="results folder (default: results)")
    arguments = parser.parse_args(words)
    options = [word for word in arguments.images if _is_option(word)]
    of_file = Path(arguments.model).suffix == ".safetensors"
    refuse_unused("predict", options, _OF_FILE if of_file else _OF_RECORD, "" if of_file else "runtime.")
    checkpoint, device = _either(arguments.checkpoint, CHECKPOINT, options), _either(arguments.device, DEVICE, options)
    inputs = [arguments.model, *arguments.images, *([] if checkpoint is None else [checkpoint])]
    check_table(arguments.out, COLUMNS, [*map(Path, inputs), *named_paths(options)])
    unread: list[PeftbenchError] = []
    files = image_files([word for word in arguments.images if word not in options], unread.append)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(arguments.model)
        if not of_file:
            _refuse_other_forms(model)
            record, store = find_record(arguments.model, results_folder(arguments.results, options))
            if record.task is not None:
                task = record.task["name"]
                raise BadInput(f"{arguments.model} was trained for {task}; only classifiers predict classes")
            options = _with_checkpoint(options, checkpoint)
            model = export_record(record, store, options, Path(folder) / "model.safetensors")
        predictor = Predictor(model, checkpoint, device or "auto")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(predictor.class_names if arguments.all else ())])
    rows = 0
    with Progress(arguments.out is not None).counted("predicting", len(files)) as step:
        for found in predictor.stream(files, unread.append):
            row = [str(found.file), found.label, f"{found.probability:.4f}"]
            writer.writerow([*row, *(f"{value:.4f}" for value in (found.probabilities if arguments.all else ()))])
            rows += 1
            step(1)
    named = _named(unread)
    if not rows:
        raise BadInput("\n".join(["none of the images can be read", *named] if len(named) > 1 else named))
    for line in named:
        print(error_line(f"left out: {line}"), file=sys.stderr)
    if arguments.out is None:
        # a pipe gets the names as they are
        sys.stdout.write(printable(text.getvalue()) if sys.stdout.isatty() else text.getvalue())
    else:
        replace_text(arguments.out, text.getvalue())
        print(f"wrote {arguments.out}: {rows:,} images")
    return 1 if unread else 0


def _refuse_other_forms(model: Path) -> None:
    """What `export` wrote for other programs is no record either: raises `BadInput`."""
    if is_one_file(model) or (model / CONFIG).is_file():
        raise BadInput(
            f"{model}: ONNX, torch.export and PEFT forms are for other programs; "
            "predict takes what `export RECORD FILE.safetensors` writes, or the record itself"
        )


def _named(unread: list[PeftbenchError]) -> list[str]:
    """A line for each of the first, and one that counts the rest."""
    more = len(unread) - MOST_NAMED
    return [*map(str, unread[:MOST_NAMED]), *([f"{more:,} more"] if more > 0 else [])]


def _is_option(word: str) -> bool:
    """`dataset.root=DIR` and the like; a file of such a name is an image all the same."""
    key, equals, _ = word.partition("=")
    return bool(equals) and ("." in key or key in (*FIXED, *NAMED, *TOP)) and not Path(word).exists()


def _either(flag: str | None, option: str, options: list[str]) -> str | None:
    """What a flag or the option of the same meaning says. Raises `ConfigError` where the two say different things."""
    said = option_values(word for word in options if word.startswith(f"{option}=")).get(option)
    if flag is not None and said is not None and flag != str(said):
        raise ConfigError([f"predict: --{option.partition('.')[2]} {brief(flag)} and {option}={said}: leave one out"])
    return flag if said is None else str(said)


def _with_checkpoint(options: list[str], checkpoint: str | None) -> list[str]:
    """The options of a record, the weights among them however they were named."""
    rest = [word for word in options if not word.startswith(f"{CHECKPOINT}=")]
    return rest if checkpoint is None else [*rest, f"{CHECKPOINT}={quoted(checkpoint)}"]
