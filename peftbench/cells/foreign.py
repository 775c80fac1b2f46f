"""An adapter made elsewhere, measured on a test split of this suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.adapters.hf_peft import attach_peft
from peftbench.cells.measure import measure_test
from peftbench.cells.parts import build_parts
from peftbench.cells.settled import settled
from peftbench.config.compose import Trees
from peftbench.config.gate import from_tree
from peftbench.config.overrides import named_options
from peftbench.config.words import problems_of
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.progress import Progress
from peftbench.tasks.model import Classifier
from peftbench.train.evaluate import Evaluation

# sections of what trains or chooses: the folder holds what was trained
_UNUSED = ("method", "objective", "optim", "hparams", "tune", "launcher")


def evaluate_peft(folder: Path, words: Sequence[str]) -> Evaluation:
    """The test split that the words name (dataset=..., backbone=...), classified with an adapter in PEFT's format.

    No record is made: how the adapter was trained is not known. Raises what a cell and `attach_peft` raise.
    """
    chosen = ["method=linear", *words]
    if problems := problems_of(chosen) or _unused(words):
        raise ConfigError(problems)
    config, runtime = from_tree(Trees().of(chosen), named_options(chosen))
    with settled(runtime, config.train):
        parts = build_parts(config, runtime, Progress(runtime.progress), None)
        if not isinstance(parts.model, Classifier):
            raise NotApplicable(f"PEFT's adapters are measured as classifiers, not for task={config.task.name}")
        attach_peft(parts.model, folder)
        return measure_test(config, parts)


def _unused(words: Sequence[str]) -> list[str]:
    """One message for every word that an adapter made elsewhere has no use for."""
    names = sorted(named_options(words))
    return [
        f"{name}: the adapter says what it changes, and nothing is trained; leave it out"
        for name in names
        if name.partition(".")[0] in _UNUSED
    ]
