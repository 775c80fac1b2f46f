"""A cell before it runs: its configuration, its identity and its fingerprint. Builds no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from peftbench.backbones.source import weights_files, weights_id, writer_files
from peftbench.config.gate import RunConfig, with_options
from peftbench.config.presets import DEFAULT
from peftbench.data.base import DatasetSpec
from peftbench.foundation.errors import ConfigError, PeftbenchError, RecordError, printable
from peftbench.foundation.identity import fingerprint
from peftbench.foundation.spec import Spec

if TYPE_CHECKING:
    from peftbench.methods.base import Method

S = TypeVar("S", bound=Spec)
T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    `tuning` says, for a cell whose hyperparameters were tuned, which trials chose them.
    `words` asked for it, where the command line of this process did not (a worker of a sweep). `apart` are those of
    them that tell it from the other cells of its sweep and that no label shows: for its title alone.
    """

    config: RunConfig
    identity: dict[str, Any]
    fingerprint: str
    labels: dict[str, str]
    tuning: dict[str, Any] | None = None
    words: tuple[str, ...] | None = None
    apart: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        labels = self.labels
        named = f"{labels['method']} on {labels['dataset']}, {labels['backbone']}, seed {self.config.seed}"
        return ", ".join([named, *self.apart])

    def inputs(self) -> list[Path] | None:
        """Every file and folder whose change could change the identity; None where something else can as well."""
        data = self.config.dataset.inputs()
        backbone = self.config.backbone
        return None if data is None else [*data, *weights_files(backbone), *writer_files(backbone)]

    def check_unchanged(self) -> None:
        """Raises `RecordError` when data or weights are no longer those the identity was computed from."""
        # a fresh copy: a spec may remember what it has found
        now = replace(self.config.dataset).revision(), weights_id(self.config.backbone)
        if now != (self.identity["dataset"]["revision"], self.identity["backbone"]["weights"]):
            raise RecordError(
                "data or weights were changed while this cell ran, so its numbers belong to neither state; nothing "
                "was recorded, run the same command again"
            )


class Asked:
    """Answers about the options of a section, each asked once where many cells are planned at one moment."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Callable[..., Any], int], tuple[Spec, Any]] = {}

    def of(self, spec: S, question: Callable[[S], T]) -> T:
        """`question(spec)`, or the error it ended in the first time."""
        key = question, id(spec)
        if key not in self._answers:
            try:
                # the spec is held, so that its id stays its own
                self._answers[key] = spec, question(spec)
            except PeftbenchError as error:
                self._answers[key] = spec, error
        answer = self._answers[key][1]
        if isinstance(answer, PeftbenchError):
            raise answer
        found: T = answer
        return found


def plan(config: RunConfig, asked: Asked | None = None) -> Cell:
    """Find what the configuration points to and fingerprint it. `asked` serves many cells of one grid.

    A tuned cell is identified by what it was before tuning and by the tuning, which together settle the choice; so it
    is found and skipped without looking at its trials.

    Raises `MissingInput` when data or weights are absent and cannot be had, `ConfigError` for contradictions.
    """
    if config.protocol.merge and not config.method.mergeable:
        raise ConfigError([f"protocol.merge=true: {config.method.name} does not fold exactly; leave it unmerged"])
    asked = asked or Asked()
    before = with_options(config, config.hparams.replaced) if config.tune.active else config
    weights = asked.of(config.backbone, weights_id)
    identity = {
        "backbone": asked.of(config.backbone, _identity) | {"weights": weights},
        "method": {"name": config.method.name, "version": config.method.version} | before.method.identity(),
        "dataset": asked.of(config.dataset, _dataset_identity),
        "protocol": asked.of(config.protocol, _identity),
        "optim": before.optim.identity(),
        "train": asked.of(config.train, _identity),
        "seed": config.seed,
        **_choice(config),
    }
    objective = config.objective
    if not objective.plain:
        identity["objective"] = {"name": objective.name, "version": objective.version} | objective.identity()
    task = config.task
    if not task.plain:
        identity["task"] = {"name": task.name, "version": task.revision} | task.identity()
    if task.reads_names and (names := asked.of(config.dataset, _names_apart)):
        # what is read to train and to test by
        identity["class_names"] = list(names)
    labels = {
        "backbone": config.backbone.title,
        "method": method_label(config),
        "dataset": config.dataset.label,
        "group": config.dataset.group,
        "protocol": config.protocol.title,
    }
    if not task.plain:
        labels["task"] = task.label
    if remarks := [part.remark for part in (config.method, objective, task) if part.remark]:
        labels["remark"] = " / ".join(remarks)
    # a folder's name may be anything, and labels are printed
    labels = {name: printable(label).replace("\n", " ") for name, label in labels.items()}
    return Cell(config, identity, fingerprint(identity), labels)


def _identity(spec: Spec) -> dict[str, Any]:
    return spec.identity()


def _dataset_identity(dataset: DatasetSpec) -> dict[str, Any]:
    return {"kind": dataset.name, "revision": dataset.revision()} | dataset.identity()


def _names_apart(dataset: DatasetSpec) -> tuple[str, ...]:
    return dataset.names_apart()


def method_label(config: RunConfig) -> str:
    """What tables call the method of a cell, with its objective."""
    method, objective = _unfilled_method(config).label, config.objective
    return method if objective.plain else f"{method} + {objective.label}"


def _choice(config: RunConfig) -> dict[str, Any]:
    """How the hyperparameters were chosen, where they are not the method's own.

    Part of the identity like the rule that selects an epoch: a chosen value may equal the default, and the number is
    still one of a different table.
    """
    choice: dict[str, Any] = {}
    if config.hparams.preset != DEFAULT:
        choice["hparams"] = config.hparams.preset
    if config.tune.active:
        choice["tune"] = config.tune.identity()
    return choice


def _unfilled_method(config: RunConfig) -> Method:
    """The method as the command line has it: what a preset or tuning set per data set would split a table's row."""
    own = {
        name.partition(".")[2]: value for name, value in config.hparams.replaced.items() if name.startswith("method.")
    }
    return replace(config.method, **own)
