"""The configuration that the words of an action stand for."""

from __future__ import annotations

import argparse

from peftbench.advise.look import dividing_words
from peftbench.config.compose import Trees
from peftbench.config.gate import RunConfig, from_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.config.words import problems_of
from peftbench.data.sources.own_files import OwnFiles
from peftbench.foundation.errors import ConfigError


def composed(arguments: argparse.Namespace) -> tuple[RunConfig, RuntimeSpec]:
    """The configuration of `dataset=<dataset>` and the other words."""
    words = [f"dataset={arguments.dataset}", *arguments.options]
    problems = problems_of(words)
    if problems:
        raise ConfigError(problems)
    return from_tree(Trees().of(words))


def divided(arguments: argparse.Namespace) -> tuple[RunConfig, RuntimeSpec, list[str]]:
    """The same to look at images only: own files that are too few for their division are divided as `advise` does.

    The list says with which words a run divides them so.
    """
    config, runtime = composed(arguments)
    if not isinstance(config.dataset, OwnFiles) or not config.dataset.too_few():
        return config, runtime, []
    named = {word.partition("=")[0] for word in arguments.options}
    words = dividing_words(config.dataset, named.__contains__)
    arguments.options = [*arguments.options, *words]
    needed = " ".join([*words, *([] if "protocol" in named else ["protocol=full"])])
    few = f"too few images for the usual 800 + 200: a run needs {needed}; 'advise' does so itself"
    return *composed(arguments), [few]
