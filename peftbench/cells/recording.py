"""From a measured cell to its record and the files that belong to it."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from peftbench.adapters.file import adapter_bytes
from peftbench.cells.cell import Cell
from peftbench.cells.cost import NOT_PROBED, measured
from peftbench.cells.measure import Scores
from peftbench.cells.parts import Parts
from peftbench.cells.provenance import command_words, git_state, machine, package_version, versions
from peftbench.cells.settled import kernels_of
from peftbench.cells.train import Trained
from peftbench.config.gate import RunConfig, as_tree, without_locations
from peftbench.config.presets import DEFAULT
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.ready import Split
from peftbench.records.owned import Attempt, predictions_bytes
from peftbench.records.record import SCHEMA, RunRecord
from peftbench.records.store import Store
from peftbench.train.evaluate import Evaluation


@dataclass(frozen=True)
class Clocked:
    """When a cell began, how many seconds it took, and the highest memory use meanwhile (see `PeakMemory`)."""

    started: datetime.datetime
    seconds: float
    peak_bytes: int
    peak_kind: str


def record_of(
    cell: Cell,
    runtime: RuntimeSpec,
    store: Store,
    parts: Parts,
    trained: Trained,
    scores: Scores,
    tensors: dict[str, Tensor],
    clocked: Clocked,
    files: Attempt,
) -> RunRecord:
    """The record of a cell; writes its adapter and predictions, to which the record points, as `files`."""
    config, observed = cell.config, parts.observed
    adapter = _save_adapter(cell, runtime, store, tensors, files)
    kept = {"kept": trained.kept} if trained.kept else {}
    last = {} if config.train.last_block == "all" else {"last_block": trained.last_block.facts}
    looked = {} if observed.findings is None else {"observe_seconds": observed.seconds}
    found = {} if observed.findings is None else {"found": config.method.summary(observed.findings)}
    return RunRecord(
        schema=SCHEMA,
        fingerprint=cell.fingerprint,
        identity=cell.identity,
        config=without_locations(as_tree(config, runtime), config),
        seed=config.seed,
        labels=cell.labels,
        metrics={"val": _metrics(scores.val), "test": _metrics(scores.test)},
        primary=config.task.metric.name,
        selection={"rule": config.train.select, "epoch": trained.fit.epoch_selected} | found,
        params=_params(config, parts),
        cost={
            **NOT_PROBED,
            **trained.probed,
            "peak_bytes": clocked.peak_bytes,
            "peak_kind": clocked.peak_kind,
            **measured(trained.fit, trained.feature_seconds, scores.test),
            "adapter_bytes": adapter["bytes"],
            "device": parts.data.device.type,
            **kept,
            **last,
            **looked,
        },
        curve=trained.fit.curve,
        data=_data(config, parts, scores.test is not None),
        weights=_weights(cell, parts),
        provenance=_provenance(cell, runtime, parts, clocked),
        predictions=_save_predictions(cell, store, scores.test, files),
        tuning=cell.tuning,
        hparams=_hparams(config),
        adapter={"file": adapter["file"], "sha256": adapter["sha256"]} if adapter["file"] else None,
        task=_task(config),
    )


def _task(config: RunConfig) -> dict[str, Any] | None:
    """What is predicted, and which direction of the primary number is better in which unit; None for classes."""
    task = config.task
    return None if task.plain else {"name": task.name, "better": task.metric.better, "unit": task.metric.unit}


def _hparams(config: RunConfig) -> dict[str, Any] | None:
    """Whose hyperparameters these are and on which split they were chosen; None for the method's own."""
    spec = config.hparams
    return None if spec.preset == DEFAULT else {"label": spec.label, **dataclasses.asdict(spec)}


def _weights(cell: Cell, parts: Parts) -> dict[str, Any]:
    read = parts.model.backbone.weights_read
    known = {"id": cell.identity["backbone"]["weights"], "digest": None, "source": cell.config.backbone.source}
    return known | ({"read": read} if cell.config.backbone.checkpoint else {})


def _params(config: RunConfig, parts: Parts) -> dict[str, Any]:
    model, objective = parts.model, config.objective
    method = sum(parameter.numel() for _, parameter in model.added)
    head = sum(parameter.numel() for parameter in model.head.parameters() if parameter.requires_grad)
    of_objective = objective.expected_params(model.backbone.shape, parts.data.source.num_classes)
    return {
        "backbone": parts.num_backbone_params,
        "method": method,
        "head": head,
        "trainable": method + head,
        "share": method / parts.num_backbone_params,
    } | ({} if objective.plain else {"objective": of_objective})


def _metrics(evaluation: Evaluation | None) -> dict[str, Any] | None:
    return None if evaluation is None else dict(evaluation.metrics)


def _data(config: RunConfig, parts: Parts, tested: bool) -> dict[str, Any]:
    protocol, data, source = config.protocol, parts.data, parts.data.source

    def facts(name: str | None, split: Split | None) -> dict[str, Any] | None:
        return {"name": name, "n": len(split), "digest": split.digest} if split else None

    return {
        "membership": source.membership_of(protocol.train_split),
        "pixels": source.pixels,
        "test": source.test,
        "classes": source.num_classes,
        "class_names": list(source.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        "transform": data.transform.key(),
        "splits": {
            "train": facts(protocol.train_split, data.train_set),
            "val": facts(protocol.val_split, data.val_set),
            "test": facts("test", data.test_views[0] if tested else None),
        },
    }


def _provenance(cell: Cell, runtime: RuntimeSpec, parts: Parts, clocked: Clocked) -> dict[str, Any]:
    (commit, dirty), device = git_state(), parts.data.device
    return {
        "version": package_version(),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "machine": machine(device, kernels_of(runtime, cell.config.train, device)),
        "started": clocked.started.isoformat(timespec="seconds"),
        "seconds": clocked.seconds,
        "command": command_words(sys.argv[1:] if cell.words is None else cell.words),
    }


def _save_adapter(
    cell: Cell, runtime: RuntimeSpec, store: Store, tensors: dict[str, Tensor], files: Attempt
) -> dict[str, Any]:
    """Bytes on disk, file name and digest of the adapter; nulls when it is not kept."""
    if not runtime.save_adapter:
        return {"bytes": None, "file": None, "sha256": None}
    path = store.adapter_path(cell.fingerprint)
    content = adapter_bytes(tensors, without_locations(as_tree(cell.config, runtime), cell.config), cell.fingerprint)
    file = str(path.relative_to(store.root))
    return {"bytes": len(content), "file": file, "sha256": files.write(path, content)}


def _save_predictions(cell: Cell, store: Store, test: Evaluation | None, files: Attempt) -> dict[str, Any] | None:
    """Predictions on the test split, so that a metric can be mended without retraining."""
    if test is None or test.predictions is None:
        return None
    path = store.predictions_path(cell.fingerprint)
    digest = files.write(path, predictions_bytes(test.predictions))
    return {"sha256": digest, "n": test.num_samples, "file": str(path.relative_to(store.root))}
