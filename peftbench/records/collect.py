"""Records -> one tidy table, one row per finished cell, one scalar per column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from peftbench.foundation.errors import printable
from peftbench.foundation.identity import canonical, group_fingerprint
from peftbench.records.record import RunRecord

# what titles call defaults where nothing else was changed and training was not short; see `boards.table.Table.title`
PAPER_DEFAULTS = "paper defaults"
# the task of records that name none
CLASSIFICATION = "classification"

COLUMNS = (
    "fingerprint",
    "repetition_group",
    "task",
    "metric",
    "better",
    "unit",
    "backbone",
    "weights_id",
    "weights_digest",
    "method",
    "remark",
    "dataset",
    "group",
    "protocol",
    "seed",
    "hyperparameters",
    "replaced",
    "others",
    "score",
    "mean_class_accuracy",
    "top5_accuracy",
    "ece",
    "order_gap",
    "test_loss",
    "num_test_images",
    "val_score",
    "params_backbone",
    "params_method",
    "params_head",
    "share",
    "memory_bytes",
    "memory_batch_size",
    "peak_bytes",
    "peak_kind",
    "forward_flops_per_image",
    "train_flops_per_image",
    "train_images_per_second",
    "eval_images_per_second",
    "train_seconds",
    "eval_seconds",
    "adapter_bytes",
    "device",
    "membership",
    "pixels",
    "test_images",
    "data",
    "version",
    "git_commit",
    "setting",
    "command",
    "steps",
)


# Of these the columns that hold numbers (all others but the seed hold texts).
NUMBERS = frozenset(COLUMNS[COLUMNS.index("score") : COLUMNS.index("device")]) - {"peak_kind"}


def collect(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per record with the columns `COLUMNS`, ordered by fingerprint so that the order of files never matters.

    `score` is the primary number on the test split, `val_score` on the validation split; `metric`, `better` and `unit`
    say what it is (accuracy, a fraction, for classification); what a record does not know is None. `others` are all
    test metrics of another task than classification (canonical JSON). `hyperparameters` says how they were chosen,
    `replaced` (canonical JSON) what a preset or tuning set aside. `repetition_group` is equal for cells that differ in
    the seed alone. `command` (canonical JSON) are the words that asked for a cell of such a task, without those that
    hold places. `steps` says whether any step of training was taken. `setting` and `data` are canonical JSON: all but
    the seed that can change the number, and of that what concerns the images.
    """
    rows = sorted((row(record) for record in records), key=lambda values: str(values["fingerprint"]))
    # object columns keep None and exact integers, which a float column would turn into NaN and rounded numbers
    return pd.DataFrame({name: pd.Series([values[name] for values in rows], dtype=object) for name in COLUMNS})


# until November 2026 the usual range of rates, which labels of tuned records left out
_UNSAID_RATES = [1e-4, 3e-2]


def _hyperparameters(record: RunRecord) -> str:
    """How the hyperparameters were chosen, in the words of tables that never mix them."""
    chosen = record.tuning or record.hparams
    label = PAPER_DEFAULTS if chosen is None else str(chosen.get("label", "tuned"))
    if record.tuning and record.tuning.get("lr") == _UNSAID_RATES and "lr=" not in label and label.endswith(")"):
        return f"{label[:-1]}, lr={_UNSAID_RATES})"
    return label


def _data_identity(record: RunRecord) -> dict[str, Any]:
    """What must be equal for two numbers under one dataset label to be numbers on the same images."""
    honest = {key: record.data[key] for key in ("membership", "pixels", "test")}
    return {**honest, "dataset": record.identity.get("dataset")}


def row(record: RunRecord) -> dict[str, Any]:
    """One record as a row of `collect`."""
    test = record.metrics["test"] or {}
    setting, replaced = _setting(record)
    memory, cost, data = record.cost["memory"] or {}, record.cost, record.data
    return {
        "fingerprint": record.fingerprint,
        "repetition_group": group_fingerprint(record.identity),
        "task": record.labels.get("task", CLASSIFICATION),
        "metric": record.primary,
        "better": record.metric.better,
        "unit": record.metric.unit,
        "backbone": _shown(record.labels["backbone"]),
        "weights_id": record.weights["id"],
        "weights_digest": record.weights["digest"],
        "method": _shown(record.labels["method"]),
        "remark": _shown(record.labels.get("remark", "")),
        "dataset": _shown(record.labels["dataset"]),
        "group": _shown(record.labels["group"]),
        "protocol": _shown(record.labels["protocol"]),
        "seed": record.seed,
        "hyperparameters": _hyperparameters(record),
        "replaced": canonical((record.hparams or {}).get("replaced", {}) | replaced),
        "score": record.score("test"),
        "others": None if record.task is None else canonical(test),
        "mean_class_accuracy": test.get("mean_class_accuracy"),
        "top5_accuracy": test.get("top5_accuracy"),
        "ece": test.get("ece"),
        "order_gap": test.get("order_gap"),
        "test_loss": test.get("loss"),
        "num_test_images": test.get("n"),
        "val_score": record.score("val"),
        "params_backbone": record.params["backbone"],
        "params_method": record.params["method"],
        "params_head": record.params["head"],
        "share": record.params["share"],
        "memory_bytes": memory.get("total_bytes"),
        "memory_batch_size": memory.get("batch_size"),
        "peak_bytes": cost["peak_bytes"],
        "peak_kind": cost["peak_kind"],
        "forward_flops_per_image": cost["forward_flops_per_image"],
        "train_flops_per_image": cost["train_flops_per_image"],
        "train_images_per_second": cost["train_images_per_second"],
        "eval_images_per_second": cost["eval_images_per_second"],
        "train_seconds": cost["train_seconds"],
        "eval_seconds": cost["eval_seconds"],
        "adapter_bytes": cost["adapter_bytes"],
        "device": cost["device"],
        "membership": data["membership"],
        "pixels": data["pixels"],
        "test_images": data["test"],
        "data": canonical(_data_identity(record)),
        "version": record.provenance["version"],
        "git_commit": record.provenance["git_commit"],
        "setting": canonical(setting),
        "command": None if record.task is None else canonical(_words(record)),
        "steps": bool(record.curve),
    }


def _setting(record: RunRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """All but the seed that can change the number, and what tuning set aside: an identity has options ahead of it."""
    setting = {key: value for key, value in record.identity.items() if key != "seed"}
    trials = (record.tuning or {}).get("trials")
    first = trials[0] if isinstance(trials, list) and trials else None
    chosen = first.get("setting") if isinstance(first, dict) else None
    replaced = {}
    for name in chosen if isinstance(chosen, dict) else ():
        section, _, option = name.partition(".")
        before, used = setting.get(section), record.config.get(section)
        if isinstance(before, dict) and isinstance(used, dict) and option in before and option in used:
            replaced[name] = before[option]
            setting[section] = {**before, option: used[option]}
    return setting, replaced


def _words(record: RunRecord) -> list[str]:
    """The words that asked for a cell, as far as what stands there are words."""
    command = record.provenance["command"]
    return [_shown(word) for word in command if isinstance(word, str)] if isinstance(command, list) else []


def _shown(label: str) -> str:
    """A label as tables may show it: on one line, and nothing that commands a terminal."""
    return printable(label).replace("\n", " ")
