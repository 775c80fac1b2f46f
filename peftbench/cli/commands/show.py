"""`python -m peftbench show RECORD`: test images, prompts, true and predicted maps; or clips with their classes."""

from __future__ import annotations

from pathlib import Path

from peftbench.cells.pictures import predicted_sheet
from peftbench.cells.restore import find_record, with_restored
from peftbench.cli.arguments import a_png, count
from peftbench.cli.record_words import MEASURING, record_parser, refuse_unused, results_folder
from peftbench.cli.sheets import check_sheet, write_sheet
from peftbench.config.overrides import named_paths
from peftbench.foundation.errors import ConfigError


def main(words: list[str]) -> int:
    """Exit code 0. Raises what restoring a record raises, `NotApplicable` for images without maps."""
    parser = record_parser("show", __doc__)
    parser.add_argument("--out", type=a_png, help="the PNG to write (default: <fingerprint>.png here)")
    parser.add_argument("--keep", action="store_true", help="put it where the HTML report of the leaderboard finds it")
    parser.add_argument("--rows", type=count, default=8, help="how many test images, up to a batch (default: 8)")
    arguments = parser.parse_args(words)
    if arguments.keep and arguments.out:
        raise ConfigError(["--keep has a place of its own; leave out --out"])
    refuse_unused("show", arguments.options, MEASURING)
    record, store = find_record(arguments.record, results_folder(arguments.results, arguments.options))
    path = arguments.out or Path(f"{record.fingerprint}.png")
    if arguments.keep:
        path = store.picture_path(record.fingerprint)
    else:
        check_sheet(path, named_paths(word for word in arguments.options if word.startswith("dataset.")))
    sheet = with_restored(
        record, store, arguments.options, lambda config, parts: predicted_sheet(config, parts, arguments.rows)
    )
    write_sheet(sheet, path)
    labels, score = record.labels, record.score("test")
    shown = "" if score is None else f", test {record.primary} {record.metric.shown(score)}"
    print(f"{path}: {labels['method']} on {labels['dataset']}, {labels['backbone']}{shown}")
    return 0
