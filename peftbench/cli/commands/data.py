"""`python -m peftbench data list|prepare|verify|show|cache`: what there is, and whether it can be trusted."""

from __future__ import annotations

import importlib

from peftbench.cli.arguments import Arguments, a_png, count, days
from peftbench.data.base import FULL_SPLITS, SPLITS
from peftbench.foundation.errors import ConfigError, did_you_mean

# action -> module with `main(arguments) -> exit code`; imported only when asked for
ACTIONS = {"list": "listing", **{name: name for name in ("prepare", "verify", "show", "cache")}}


def main(words: list[str]) -> int:
    """Exit code 0; 1 when `verify` finds problems; 2 for wrong words or missing data."""
    if words and words[0] not in ACTIONS and not words[0].startswith("-"):
        raise ConfigError([f"unknown data command '{words[0]}'{did_you_mean(words[0], ACTIONS)}"])
    arguments = _parser().parse_args(words)
    code: int = importlib.import_module(f"peftbench.cli.data.{ACTIONS[arguments.action]}").main(arguments)
    return code


def _parser() -> Arguments:
    parser = Arguments.of("data", __doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, about: str, options: str | None) -> Arguments:
        added = actions.add_parser(name, help=about, description=about)
        added.set_defaults(action=name)
        if options != "":
            if options:
                about_it = "a choice of the group dataset, e.g. vtab/caltech101; dataset=NAME as everywhere is the same"
                added.add_argument("dataset", type=_named, help=about_it)
            added.add_argument("options", nargs="*", default=[], help="as everywhere, e.g. dataset.root=DIR")
        return added

    action("list", "every dataset: whether it is ready, its size and where it is", None)
    prepare = action("prepare", "download what can be downloaded and fill the image cache", "dataset")
    prepare.add_argument("--no-test", action="store_true", help="leave the test split for later")
    verifying = action("verify", "decode every image; name all that is wrong", "dataset")
    verifying.add_argument(
        "--strict",
        action="store_true",
        help="pictures of test in train, or under two labels, are problems too (exit 1)",
    )
    verifying.add_argument("--deep", action="store_true", help="read all bytes anew, whatever is remembered of files")
    show = action("show", "a contact sheet with class names", "dataset")
    show.add_argument("--out", type=a_png, help="the PNG to write (default: <dataset>.png here)")
    show.add_argument("--split", choices=(*SPLITS, *FULL_SPLITS), help="default: all training images")
    show.add_argument("--per-class", type=count, default=8, help="images of each class, or of all with maps (8)")
    cache = action("cache", "what the image cache holds", "")
    cache.add_argument("--prune", action="store_true", help="remove leftovers and what other versions made")
    cache.add_argument("--unused-days", type=days, help="with --prune: also what was not used for so many days")
    return parser


def _named(word: str) -> str:
    return word.removeprefix("dataset=")
