"""A cell before it runs: its configuration, its identity and its fingerprint. Builds no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.backbones.weights import weights_file, weights_id
from peftbench.config import RunConfig
from peftbench.errors import ConfigError
from peftbench.identity import fingerprint


@dataclass(frozen=True)
class Cell:
    """One point of the grid. `inputs` are the files that the identity was computed from."""

    config: RunConfig
    identity: dict[str, Any]
    fingerprint: str
    labels: dict[str, str]
    inputs: tuple[Path, ...]

    @property
    def title(self) -> str:
        labels = self.labels
        return f"{labels['method']} on {labels['dataset']}, {labels['backbone']}, seed {self.config.seed}"


def plan(config: RunConfig) -> Cell:
    """Find what the configuration points to and fingerprint it.

    Raises `MissingInput` when data or weights are absent and cannot be had, `ConfigError` for contradictions.
    """
    if config.protocol.merge and not config.method.mergeable:
        raise ConfigError([f"protocol.merge=true: {config.method.name} does not fold exactly; leave it unmerged"])
    identity = {
        "backbone": config.backbone.identity() | {"weights": weights_id(config.backbone)},
        "method": {"name": config.method.name, "version": config.method.version} | config.method.identity(),
        "dataset": {"kind": config.dataset.name, "revision": config.dataset.revision()} | config.dataset.identity(),
        "protocol": config.protocol.identity(),
        "optim": config.optim.identity(),
        "train": config.train.identity(),
        "seed": config.seed,
    }
    objective = config.objective
    if not objective.plain:
        identity["objective"] = {"name": objective.name, "version": objective.version} | objective.identity()
    labels = {
        "backbone": config.backbone.title,
        "method": config.method.label if objective.plain else f"{config.method.label} + {objective.label}",
        "dataset": config.dataset.label,
        "group": config.dataset.group,
        "protocol": config.protocol.title,
    }
    weights = weights_file(config.backbone)
    inputs = (*config.dataset.inputs(), *([weights] if weights else []))
    return Cell(config, identity, fingerprint(identity), labels, inputs)
