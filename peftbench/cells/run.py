"""run_cell: the straight line from a planned cell to its record."""

from __future__ import annotations

import dataclasses
import datetime
import io
import sys
import time
from typing import Any

import numpy as np

from peftbench.adapters.file import adapter_tensors, save_adapter
from peftbench.cells.cell import Cell
from peftbench.cells.cost import measured, probe
from peftbench.cells.features import trainee
from peftbench.cells.provenance import command_words, git_state, machine, package_version, versions
from peftbench.cells.setup import Setup, pick_device, set_up
from peftbench.config.gate import RunConfig, as_tree, without_locations
from peftbench.config.presets import DEFAULT
from peftbench.config.runtime import RuntimeSpec
from peftbench.data.base import ImageSplit
from peftbench.foundation.digests import hash_file
from peftbench.foundation.files import replace_bytes
from peftbench.foundation.progress import Progress
from peftbench.foundation.seeding import deterministic
from peftbench.records.record import SCHEMA, RunRecord
from peftbench.records.store import Store
from peftbench.tasks.classification import classification_loss
from peftbench.train.evaluate import Evaluation, evaluate
from peftbench.train.loop import fit
from peftbench.train.measure import PeakMemory
from peftbench.train.optim import param_groups


def run_cell(cell: Cell, runtime: RuntimeSpec, store: Store, progress: Progress) -> RunRecord:
    """Train, evaluate and record one cell. The record is in the store when this returns.

    Raises what its parts raise; then nothing is recorded.
    """
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    config, train = cell.config, cell.config.train
    with deterministic(pick_device(runtime.device)):
        peak = PeakMemory(pick_device(runtime.device))
        for line in config.hparams.lines():
            progress.say(line)
        setup = set_up(config, runtime, progress)
        model = setup.model
        loss_fn = config.objective.loss_fn(model, classification_loss(train.label_smoothing))
        train_set = setup.load(config.protocol.train_split)
        val_set = setup.load(config.protocol.val_split) if config.protocol.val_split else None

        params = _params(setup)
        probed = (
            probe(model, loss_fn, setup.train_batches(train_set), config.optim, train) if runtime.measure_cost else {}
        )
        groups = param_groups(model.added, model.head.named_parameters(prefix="head"), config.optim)
        trained = trainee(setup, train_set, val_set)
        with progress.epochs(cell.title, train.epochs, trained.train) as on_epoch:
            result = fit(
                trained.module, loss_fn, trained.train, trained.val, config.optim, train, groups, config.seed, on_epoch
            )

        tensors = adapter_tensors(model, setup.frozen_buffers, setup.findings)
        if config.protocol.merge:
            config.method.merge(model.backbone)
        val = _evaluate(setup, val_set) if val_set else None
        # The test split is first touched here, when nothing can be chosen any more.
        test_set = setup.load("test") if config.protocol.report_test else None
        test = _evaluate(setup, test_set) if test_set else None

    cell.check_unchanged()
    adapter = _save_adapter(cell, runtime, store, tensors)
    record = RunRecord(
        schema=SCHEMA,
        fingerprint=cell.fingerprint,
        identity=cell.identity,
        config=without_locations(as_tree(config, runtime), config),
        seed=config.seed,
        labels=cell.labels,
        metrics={"val": _metrics(val), "test": _metrics(test)},
        primary="accuracy",
        selection={"rule": train.select, "epoch": result.epoch_selected} | _found(setup),
        params=params,
        cost={
            **NOT_PROBED,
            **probed,
            **measured(result, trained.feature_seconds, test, peak, adapter["bytes"], setup.device.type),
            **({} if setup.findings is None else {"observe_seconds": setup.observe_seconds}),
        },
        curve=result.curve,
        data=_data(setup, train_set, val_set, test_set),
        weights=_weights(cell, setup),
        provenance=_provenance(cell, setup, started, time.perf_counter() - clock),
        predictions=_save_predictions(cell, store, test),
        tuning=cell.tuning,
        hparams=_hparams(config),
        adapter={"file": adapter["file"], "sha256": adapter["sha256"]} if adapter["file"] else None,
    )
    store.put(record, replace=runtime.on_existing == "rerun")
    store.clear_failure(cell.fingerprint)
    return record


NOT_PROBED: dict[str, Any] = {"memory": None, "forward_flops_per_image": None, "train_flops_per_image": None}


def _evaluate(setup: Setup, split: ImageSplit) -> Evaluation:
    batches = setup.eval_batches(split)
    return evaluate(setup.model, batches, setup.source.num_classes, setup.config.train.precision)


def _hparams(config: RunConfig) -> dict[str, Any] | None:
    """Whose hyperparameters these are and on which split they were chosen; None for the method's own."""
    spec = config.hparams
    return None if spec.preset == DEFAULT else {"label": spec.label, **dataclasses.asdict(spec)}


def _found(setup: Setup) -> dict[str, Any]:
    """What a method that looked at the images first has chosen."""
    return {} if setup.findings is None else {"found": setup.config.method.summary(setup.findings)}


def _weights(cell: Cell, setup: Setup) -> dict[str, Any]:
    read = setup.model.backbone.weights_read
    known = {"id": cell.identity["backbone"]["weights"], "digest": None, "source": cell.config.backbone.source}
    return known | ({"read": read} if cell.config.backbone.checkpoint else {})


def _params(setup: Setup) -> dict[str, Any]:
    method = sum(parameter.numel() for _, parameter in setup.model.added)
    head = sum(parameter.numel() for parameter in setup.model.head.parameters())
    objective = setup.config.objective
    of_objective = objective.expected_params(setup.model.backbone.shape, setup.source.num_classes)
    return {
        "backbone": setup.num_backbone_params,
        "method": method,
        "head": head,
        "trainable": method + head,
        "share": method / setup.num_backbone_params,
    } | ({} if objective.plain else {"objective": of_objective})


def _metrics(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return {key: getattr(evaluation, key) for key in ("accuracy", "mean_class_accuracy", "loss", "correct", "n")}


def _data(setup: Setup, train: ImageSplit, val: ImageSplit | None, test: ImageSplit | None) -> dict[str, Any]:
    protocol, source = setup.config.protocol, setup.source

    def split(name: str | None, images: ImageSplit | None) -> dict[str, Any] | None:
        return {"name": name, "n": len(images.labels), "digest": images.digest} if images else None

    return {
        "membership": source.membership_of(protocol.train_split),
        "pixels": source.pixels,
        "test": source.test,
        "classes": source.num_classes,
        "class_names": list(source.class_names),
        "mean": list(setup.mean),
        "std": list(setup.std),
        "transform": setup.transform.key(),
        "splits": {
            "train": split(protocol.train_split, train),
            "val": split(protocol.val_split, val),
            "test": split("test", test),
        },
    }


def _provenance(cell: Cell, setup: Setup, started: datetime.datetime, seconds: float) -> dict[str, Any]:
    commit, dirty = git_state()
    return {
        "version": package_version(),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "machine": machine(setup.device),
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
        "command": command_words(sys.argv[1:] if cell.words is None else cell.words),
    }


def _save_adapter(cell: Cell, runtime: RuntimeSpec, store: Store, tensors: dict[str, Any]) -> dict[str, Any]:
    """Bytes on disk, file name and digest of the adapter; nulls when it is not kept."""
    if not runtime.save_adapter:
        return {"bytes": None, "file": None, "sha256": None}
    path = store.adapter_path(cell.fingerprint)
    size = save_adapter(path, tensors, as_tree(cell.config, runtime), cell.fingerprint)
    return {"bytes": size, "file": str(path.relative_to(store.root)), "sha256": hash_file(path).hex()}


def _save_predictions(cell: Cell, store: Store, test: Evaluation | None) -> dict[str, Any] | None:
    """Predicted classes of the test split, so that a metric can be mended without retraining."""
    if test is None:
        return None
    path = store.predictions_path(cell.fingerprint)
    buffer = io.BytesIO()
    np.save(buffer, test.predictions, allow_pickle=False)
    replace_bytes(path, buffer.getvalue())
    return {"sha256": hash_file(path).hex(), "n": test.n, "file": str(path.relative_to(store.root))}
