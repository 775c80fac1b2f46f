"""A cell before it runs: its configuration, its identity and its fingerprint. Builds no model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftbench.backbones.weights import weights_file, weights_id
from peftbench.config.gate import RunConfig, with_options
from peftbench.config.presets import DEFAULT
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.identity import fingerprint
from peftbench.methods.base import Method


@dataclass(frozen=True)
class Cell:
    """One point of the grid. `inputs` are the files that the identity was computed from.

    `tuning` says, for a cell whose hyperparameters were tuned, which trials chose them.
    `words` asked for it, where the command line of this process did not (a worker of a sweep).
    """

    config: RunConfig
    identity: dict[str, Any]
    fingerprint: str
    labels: dict[str, str]
    inputs: tuple[Path, ...]
    tuning: dict[str, Any] | None = None
    words: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        labels = self.labels
        return f"{labels['method']} on {labels['dataset']}, {labels['backbone']}, seed {self.config.seed}"


def plan(config: RunConfig) -> Cell:
    """Find what the configuration points to and fingerprint it.

    A tuned cell is identified by what it was before tuning and by the tuning, which together settle the choice; so it
    is found and skipped without looking at its trials.

    Raises `MissingInput` when data or weights are absent and cannot be had, `ConfigError` for contradictions.
    """
    if config.protocol.merge and not config.method.mergeable:
        raise ConfigError([f"protocol.merge=true: {config.method.name} does not fold exactly; leave it unmerged"])
    before = with_options(config, config.hparams.replaced) if config.tune.active else config
    identity = {
        "backbone": config.backbone.identity() | {"weights": weights_id(config.backbone)},
        "method": {"name": config.method.name, "version": config.method.version} | before.method.identity(),
        "dataset": {"kind": config.dataset.name, "revision": config.dataset.revision()} | config.dataset.identity(),
        "protocol": config.protocol.identity(),
        "optim": before.optim.identity(),
        "train": config.train.identity(),
        "seed": config.seed,
        **_choice(config),
    }
    objective = config.objective
    if not objective.plain:
        identity["objective"] = {"name": objective.name, "version": objective.version} | objective.identity()
    labels = {
        "backbone": config.backbone.title,
        "method": method_label(config),
        "dataset": config.dataset.label,
        "group": config.dataset.group,
        "protocol": config.protocol.title,
    }
    if remarks := [part.remark for part in (config.method, objective) if part.remark]:
        labels["remark"] = " / ".join(remarks)
    weights = weights_file(config.backbone)
    inputs = (*config.dataset.inputs(), *([weights] if weights else []))
    return Cell(config, identity, fingerprint(identity), labels, inputs)


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
