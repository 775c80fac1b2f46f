"""`python -m peftbench data list|prepare|verify|show|cache`: what there is, and whether it can be trusted."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from peftbench.advise.look import dividing_words
from peftbench.cli.arguments import Arguments, a_file, count, days
from peftbench.config.choices import content
from peftbench.config.compose import Trees
from peftbench.config.gate import RunConfig, config_dir, from_tree
from peftbench.config.overrides import choices_of, option_values
from peftbench.config.runtime import RuntimeSpec
from peftbench.config.words import problems_of
from peftbench.data.base import DATASETS, FULL_SPLITS, SPLITS, DatasetSpec
from peftbench.data.contact_sheet import contact_sheet, map_sheet
from peftbench.data.pixels.cache import default_cache_dir, load_split
from peftbench.data.pixels.entry import Listed, listed, prune
from peftbench.data.sources.own_files import OwnFiles
from peftbench.data.verify import verify
from peftbench.foundation.digests import read_anew
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput, PeftbenchError, did_you_mean
from peftbench.foundation.progress import Progress
from peftbench.foundation.spec import build
from peftbench.foundation.terminal import print_fitted, width_of

ACTIONS = ("list", "prepare", "verify", "show", "cache")


def main(words: list[str]) -> int:
    """Exit code 0; 1 when `verify` finds problems; 2 for wrong words or missing data."""
    if words and words[0] not in ACTIONS and not words[0].startswith("-"):
        raise ConfigError([f"unknown data command '{words[0]}'{did_you_mean(words[0], ACTIONS)}"])
    arguments = _parser().parse_args(words)
    code: int = arguments.run(arguments)
    return code


def _parser() -> Arguments:
    parser = Arguments.of("data", __doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, run: Any, about: str, options: str | None) -> Arguments:
        added = actions.add_parser(name, help=about, description=about)
        added.set_defaults(run=run)
        if options != "":
            if options:
                about_it = "a choice of the group dataset, e.g. vtab/caltech101; dataset=NAME as everywhere is the same"
                added.add_argument("dataset", type=_named, help=about_it)
            added.add_argument("options", nargs="*", help="as everywhere, e.g. dataset.root=DIR")
        return added

    action("list", _list, "every dataset: whether it is ready, its size and where it is", None)
    prepare = action("prepare", _prepare, "download what can be downloaded and fill the image cache", "dataset")
    prepare.add_argument("--no-test", action="store_true", help="leave the test split for later")
    verifying = action("verify", _verify, "decode every image; name all that is wrong", "dataset")
    verifying.add_argument(
        "--strict",
        action="store_true",
        help="pictures of test in train, or under two labels, are problems too (exit 1)",
    )
    verifying.add_argument("--deep", action="store_true", help="read all bytes anew, whatever is remembered of files")
    show = action("show", _show, "a contact sheet with class names", "dataset")
    show.add_argument("--out", type=a_file, help="the PNG to write (default: <dataset>.png here)")
    show.add_argument("--split", choices=(*SPLITS, *FULL_SPLITS), help="default: all training images")
    show.add_argument("--per-class", type=count, default=8, help="images of each class, or of all with maps (8)")
    cache = action("cache", _cache, "what the image cache holds", "")
    cache.add_argument("--prune", action="store_true", help="remove leftovers and what other versions made")
    cache.add_argument("--unused-days", type=days, help="with --prune: also what was not used for so many days")
    return parser


def _named(word: str) -> str:
    return word.removeprefix("dataset=")


def _list(arguments: argparse.Namespace) -> int:
    width = width_of(sys.stdout) or 160
    narrow = width < 110
    table = Table(box=None, pad_edge=False)
    for header in ("dataset", "state") if narrow else ("dataset", "group", "state", "size"):
        table.add_column(header, no_wrap=True)
    table.add_column("where", overflow="fold")
    options = _dataset_options(arguments.options)
    known: set[str] = set()
    for name in choices_of(config_dir() / "dataset"):
        cls, values = _shipped(name)
        fields = {field.name for field in dataclasses.fields(cls)}
        known |= fields
        spec = build(cls, values | {key: value for key, value in options.items() if key in fields})
        assert isinstance(spec, DatasetSpec)
        state = _state(spec)
        table.add_row(name, *(_narrowed(*state) if narrow else (spec.group, *state)))
    unknown = sorted(set(options) - known)
    if unknown:
        raise ConfigError([f"unknown option dataset.{key}{did_you_mean(key, known)}" for key in unknown])
    Console(width=width, highlight=False, markup=False).print(table)
    return 0


def _dataset_options(words: list[str]) -> dict[str, Any]:
    problems = [
        f"'{word}' is not of the form dataset.option=value" for word in words if not word.startswith("dataset.")
    ]
    if problems:
        raise ConfigError(problems)
    return {key.removeprefix("dataset."): value for key, value in option_values(words).items()}


def _shipped(name: str) -> tuple[type[DatasetSpec], dict[str, Any]]:
    """The class and the values of one yaml of the group, without composing a whole configuration."""
    values = content("dataset", name)
    # behind its own schema a file may name what it prefers of other groups
    schema, *_ = values.pop("defaults")
    kind, _, place = str(schema).removeprefix("/schema/dataset/").partition("@")
    # a file that sets other sections too has its own under the section's name
    own = values.get("dataset", {}) if place == "dataset" else values
    return DATASETS.get(kind), own


def _state(spec: DatasetSpec) -> tuple[str, str, str]:
    """State, size (on disk, or of the archives to get) and place of a dataset."""
    to_get = f"{spec.download_megabytes:,} MB to get" if spec.download_megabytes else ""
    try:
        spec.check()
        places = spec.places()
    except MissingInput as error:
        return "missing", to_get, _shortened(spec, error)
    except PeftbenchError as error:
        return "damaged", "", _shortened(spec, error)
    if places:
        return "ready", _size(sum(map(_bytes_under, places))), ", ".join(map(str, places[:2]))
    return ("download", to_get, "fetched at first use") if to_get else ("ready", "", "made by the package")


def _narrowed(state: str, size: str, where: str) -> tuple[str, str]:
    """State with size, and place, for a terminal with little room: what a bracket adds is left out, home is `~`."""
    home = str(Path.home())
    where = where.partition(" (")[0].removesuffix(",")
    where = where.replace(f"{home}/", "~/") if home != "/" else where
    return f"{state} ({size.removesuffix(' to get')})" if size else state, where


def _shortened(spec: DatasetSpec, error: PeftbenchError) -> str:
    """The first statement of a message, without the name that the row begins with."""
    return re.split(r"[:;] |\. |\n", str(error).removeprefix(f"{spec.label}: "))[0]


def _bytes_under(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    return sum(os.stat(Path(folder) / name).st_size for folder, _, names in os.walk(place) for name in names)  # noqa: PTH116


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _composed(arguments: argparse.Namespace) -> tuple[RunConfig, RuntimeSpec]:
    """The configuration of `dataset=<dataset>` and the other words."""
    words = [f"dataset={arguments.dataset}", *arguments.options]
    problems = problems_of(words)
    if problems:
        raise ConfigError(problems)
    return from_tree(Trees().of(words))


def _divided(arguments: argparse.Namespace) -> tuple[RunConfig, RuntimeSpec, list[str]]:
    """The same to look at images only: own files that are too few for their division are divided as `advise` does.

    The list says with which words a run divides them so.
    """
    config, runtime = _composed(arguments)
    if not isinstance(config.dataset, OwnFiles) or not config.dataset.too_few():
        return config, runtime, []
    named = {word.partition("=")[0] for word in arguments.options}
    words = dividing_words(config.dataset, named.__contains__)
    arguments.options = [*arguments.options, *words]
    few = (
        f"too few images for the usual 800 + 200: a run needs {' '.join(words)} protocol=full; 'advise' does so itself"
    )
    return *_composed(arguments), [few]


def _prepare(arguments: argparse.Namespace) -> int:
    # asking for it is leave to download, unless the words say otherwise
    if not any(word.startswith("dataset.download=") for word in arguments.options):
        cls, _ = _shipped(arguments.dataset) if _is_choice(arguments.dataset) else (DatasetSpec, {})
        if "download" in {field.name for field in dataclasses.fields(cls)}:
            arguments.options = ["dataset.download=true", *arguments.options]
    config, runtime = _composed(arguments)
    from peftbench.backbones.build import input_spec
    from peftbench.cells.data import image_transform
    from peftbench.cells.shared import opened

    progress = Progress(runtime.progress)
    source = opened(config).source
    for note in source.notes:
        progress.say(note)
    transform = image_transform(input_spec(config.backbone), config.protocol)
    cache_dir = runtime.cache_root
    asked = (config.protocol.train_split, config.protocol.val_split, "test")
    # a run on VTAB's splits is tuned on their parts: all four are needed sooner or later
    wanted = SPLITS if config.protocol.train_split in SPLITS else [name for name in asked if name]
    names = [name for name in wanted if not (arguments.no_test and name == "test")]
    for name in names:
        split = load_split(source, name, transform, cache_dir, progress.counted)
        size = _size(split.images.nbytes)
        print(f"{name}: {len(split):,} images, {size}, {transform.key()}, {split.digest[:16]}")
    print(f"{config.dataset.label}: ready ({source.membership}, pixels {source.pixels}, test {source.test})")
    return 0


def _is_choice(name: str) -> bool:
    return name in choices_of(config_dir() / "dataset")


def _verify(arguments: argparse.Namespace) -> int:
    config, runtime, few = _divided(arguments)
    source = config.dataset.open()
    total = sum(len(source.split(name)) for name in source.whole_splits)
    with Progress(runtime.progress).counted("verifying", total) as step:
        found = verify(source, step)
    found.warnings.extend(few)
    if arguments.deep:
        with read_anew() as differing:
            found.facts.append(f"all bytes read anew: revision {config.dataset.revision()}")
        found.problems.extend(f"{path}: its bytes changed and its times do not show it" for path in sorted(differing))
    print_fitted(f"{config.dataset.label}: {source.membership}, pixels {source.pixels}, test {source.test}")
    doubts = found.doubts
    problems, warnings = found.problems + doubts * arguments.strict, doubts * (not arguments.strict) + found.warnings
    for kind, lines in (("", found.facts), ("warning: ", warnings), ("problem: ", problems)):
        for line in lines:
            print_fitted(f"  {kind}{line}")
    print(f"{len(problems)} problems, {len(warnings)} warnings")
    if doubts and not arguments.strict:
        print_fitted("data verify --strict ends with exit code 1 for pictures of test in train, or under two labels")
    return 1 if problems else 0


def _show(arguments: argparse.Namespace) -> int:
    if arguments.per_class < 1:
        raise ConfigError([f"--per-class must be at least 1, got {arguments.per_class}"])
    config, _, _ = _divided(arguments)
    source = config.dataset.open()
    split = arguments.split or source.whole_splits[2]
    if split not in source.splits:
        raise ConfigError([f"--split: this dataset has {', '.join(source.splits)}, not {split}"])
    images = source.split(split)
    draw = map_sheet if images.maps else contact_sheet
    sheet = draw(images, source.class_names, arguments.per_class)
    path = arguments.out or Path(f"{config.dataset.label.replace('/', '_')}.png")
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror or error}); set --out") from error
    print(f"{path}: {source.num_classes} classes of {config.dataset.label}, {split}")
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    if arguments.unused_days is not None and not arguments.prune:
        raise ConfigError(["--unused-days goes with --prune"])
    folder = default_cache_dir() / "images"
    entries = prune(folder, arguments.unused_days) if arguments.prune else listed(folder)
    for entry in entries:
        print(_entry_line(entry))
    total = _size(sum(entry.num_bytes for entry in entries))
    print(f"{'removed ' if arguments.prune else ''}{len(entries)} entries, {total}, in {folder}")
    return 0


def _entry_line(entry: Listed) -> str:
    about = entry.about
    what = (
        f"{about.get('split', '')} {about.get('transform', '')} {about.get('shape', '')}"
        if about
        else "left half-built"
    )
    unread = "" if entry.reachable or not about else ", made by other versions"
    return f"{entry.key[:12]}  {_size(entry.num_bytes):>10}  {what}{unread}"
