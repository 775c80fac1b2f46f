"""RunRecord: one finished cell as one immutable JSON document, checked when it is made and when it is read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from peftbench.foundation.errors import RecordError, brief, did_you_mean
from peftbench.foundation.identity import fingerprint
from peftbench.foundation.metric import ACCURACY, HIGHER, LOWER, Metric
from peftbench.records.values import value_problems

SCHEMA = 1
# of a file or line: records have some kilobytes
LARGEST_BYTES = 64_000_000

# what every split's metrics hold, and what those of classification hold beside it
_ANY_SCORES = {"n": "size"}
_SCORES = {
    "accuracy": "fraction",
    "mean_class_accuracy": "fraction?",
    "loss": "number?",
    "correct": "count",
    "n": "size",
}
_SPLIT = {"name": "text", "n": "size", "digest": "text"}

# Keys every part of a record has, with the kind of their values (`records.values`).
# A part may hold further keys: they are kept as they are.
_PARTS: dict[str, dict[str, Any]] = {
    "labels": {"backbone": "text", "method": "text", "dataset": "text", "group": "text", "protocol": "text"},
    "metrics": {"val": (_ANY_SCORES,), "test": (_ANY_SCORES,)},
    "selection": {"rule": "text", "epoch": "count?"},
    "params": {"backbone": "size", "method": "count", "head": "count", "trainable": "count", "share": "number"},
    "cost": {
        "memory": (
            {
                "weights_bytes": "count?",
                "gradients_bytes": "count?",
                "optimizer_bytes": "count?",
                "saved_bytes": "count?",
                "total_bytes": "count?",
                "batch_size": "size?",
            },
        ),
        "peak_bytes": "count?",
        "peak_kind": "text?",
        "forward_flops_per_image": "positive?",
        "train_flops_per_image": "positive?",
        "train_images_per_second": "positive?",
        "eval_images_per_second": "positive?",
        "data_seconds": "positive?",
        "train_seconds": "positive?",
        "eval_seconds": "positive?",
        "adapter_bytes": "count?",
        "device": "text?",
    },
    "data": {
        "membership": "text",
        "pixels": "text",
        "test": "text",
        "classes": "size",
        "splits": {"train": _SPLIT, "val": (_SPLIT,), "test": (_SPLIT,)},
    },
    "weights": {"id": "text?", "digest": "text?", "source": "text?"},
    "provenance": {
        "version": "text",
        "git_commit": "text?",
        "git_dirty": "flag?",
        "versions": "dict",
        "machine": "dict",
        "started": "text?",
        "seconds": "positive?",
        "command": "any",
    },
    "predictions": {"sha256": "text", "n": "size", "file": "text?"},
    "adapter": {"file": "text?", "sha256": "text"},
}
_CURVE_ROW = {"epoch": "count", "loss": "number", "lr": "positive"}
_TASK = {"name": "text", "better": "text", "unit": "words"}


@dataclass(frozen=True)
class RunRecord:
    """Everything known about one finished cell, as plain JSON values; null means unknown, never a placeholder number.

    `metrics` are fractions in 0..1, sizes are in bytes and times in seconds, as their names say. The fingerprint must
    recompute from `identity`. Raises `RecordError` naming the first field that is wrong.
    """

    schema: int
    fingerprint: str
    identity: dict[str, Any]
    config: dict[str, Any]
    seed: int
    labels: dict[str, str]
    metrics: dict[str, Any]
    primary: str
    selection: dict[str, Any]
    params: dict[str, Any]
    cost: dict[str, Any]
    curve: list[dict[str, Any]]
    data: dict[str, Any]
    weights: dict[str, Any]
    provenance: dict[str, Any]
    predictions: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    hparams: dict[str, Any] | None = None
    # name of the task with its primary metric's direction and unit; None is classification, judged by accuracy
    task: dict[str, Any] | None = None

    @property
    def metric(self) -> Metric:
        """The metric that `primary` names."""
        return ACCURACY if self.task is None else Metric(self.primary, self.task["better"], self.task["unit"])

    def score(self, split: str) -> float | None:
        """The primary number of a split (`val` or `test`); None where the split was not measured."""
        scores = self.metrics[split]
        return None if scores is None else float(scores[self.primary])

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise RecordError(problem)

    def __repr__(self) -> str:
        """One line: the whole record, configuration and curve among it, would fill a notebook."""
        shown = {split: score for split in ("val", "test") if (score := self.score(split)) is not None}
        scores = ", ".join(f"{split} {self.primary} {self.metric.shown(score)}" for split, score in shown.items())
        names = self.labels
        cell = f"{names['method']} on {names['dataset']} ({names['backbone']}, seed {self.seed})"
        return f"<RunRecord {self.fingerprint}: {cell}: {scores or 'no scores'}>"

    def to_json(self) -> str:
        """The record as text: one field per block and one line per epoch, so that a diff can be read."""
        # the task of all records from before there were others stays unsaid
        named = [name for name in FIELDS if name != "task" or self.task is not None]
        blocks = [f' "{name}": {_block(name, getattr(self, name))}' for name in named]
        return "{\n" + ",\n".join(blocks) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """The record in `text`; raises `RecordError` when it is not a record of a known schema."""
        try:
            values = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise RecordError("not a record: the file holds no JSON object")
        _check_schema(values)
        missing = [name for name in REQUIRED if name not in values]
        if missing:
            raise RecordError(f"not a complete record: {', '.join(missing)} missing")
        for name in values:
            if name not in FIELDS:
                raise RecordError(f"unknown field {name}{did_you_mean(name, FIELDS)}")
        return cls(**values)


FIELDS = tuple(field.name for field in dataclasses.fields(RunRecord))
REQUIRED = tuple(field.name for field in dataclasses.fields(RunRecord) if field.default is dataclasses.MISSING)


def _block(name: str, value: Any) -> str:
    if name == "curve" and value:
        rows = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in value)
        return f"[\n{rows}\n ]"
    return json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _check_schema(values: dict[str, Any]) -> None:
    schema = values.get("schema")
    if schema == SCHEMA and type(schema) is int:
        return
    if schema is None:
        raise RecordError("not a record: schema missing")
    provenance = values.get("provenance")
    writer = provenance.get("version") if isinstance(provenance, dict) else None
    reader = f"peftbench {writer}, which wrote it, or later" if writer else "a newer version of peftbench"
    raise RecordError(
        f"schema {brief(repr(schema))} is unknown here (this version reads schema {SCHEMA}); read it with {reader}"
    )


def _problems(record: RunRecord) -> Iterator[str]:
    """Everything wrong with a record, most basic first."""
    if record.schema != SCHEMA:
        yield f"schema must be {SCHEMA}, got {brief(repr(record.schema))}"
    for name in ("identity", "config"):
        yield from value_problems(name, getattr(record, name), "dict")
    yield from value_problems("seed", record.seed, "count")
    yield from value_problems("primary", record.primary, "text")
    for name, keys in _PARTS.items():
        optional = name in ("predictions", "adapter")
        yield from value_problems(name, getattr(record, name), (keys,) if optional else keys)
    yield from value_problems("tuning", record.tuning, "dict?")
    yield from value_problems("hparams", record.hparams, ({"label": "text", "chosen_on": "text", "replaced": "dict"},))
    yield from value_problems("task", record.task, (_TASK,))
    if record.task is None:
        for split in ("val", "test"):
            yield from value_problems(f"metrics.{split}", record.metrics[split], (_SCORES,))
    elif record.task["better"] not in (HIGHER, LOWER):
        yield f"task.better must be {HIGHER} or {LOWER}, got {brief(repr(record.task['better']))}"
    yield from _primary_problems(record)
    yield from _curve_problems(record.curve, {**_CURVE_ROW, f"val_{record.primary}": "number?"})
    yield from _finite_problems(record)
    yield from _consistency_problems(record)


def _curve_problems(curve: Any, keys: dict[str, str]) -> Iterator[str]:
    if not isinstance(curve, list):
        yield f"curve must be a list, got {brief(repr(curve))}"
        return
    for index, row in enumerate(curve):
        yield from value_problems(f"curve[{index}]", row, keys)
    if all(isinstance(row, dict) and "epoch" in row for row in curve):
        epochs = [row["epoch"] for row in curve]
        if epochs != sorted(set(epochs)):
            yield "curve must hold each epoch once, in order"


def _finite_problems(record: RunRecord) -> Iterator[str]:
    """JSON has no NaN or infinity and no other Python objects: name the field that would not survive."""
    with contextlib.suppress(TypeError, ValueError):
        json.dumps(vars(record), allow_nan=False)
        return
    for name in FIELDS:
        try:
            json.dumps(getattr(record, name), allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"{name} cannot be written as JSON: {error}"


def _consistency_problems(record: RunRecord) -> Iterator[str]:
    """Fields that must agree with each other."""
    expected = fingerprint(record.identity)
    if record.fingerprint != expected:
        yield f"fingerprint is {brief(repr(record.fingerprint))}, but the identity gives {expected}"
    if record.identity.get("seed") != record.seed:
        yield f"seed is {record.seed}, but identity.seed is {brief(repr(record.identity.get('seed')))}"
    yield from _metric_problems(record)
    params = record.params
    if params["trainable"] != params["method"] + params["head"]:
        yield f"params.trainable is {params['trainable']}, not method + head = {params['method'] + params['head']}"
    if not _close(params["share"], params["method"] / params["backbone"]):
        yield f"params.share is {params['share']}, not method / backbone = {params['method'] / params['backbone']}"


def _primary_problems(record: RunRecord) -> Iterator[str]:
    for split, scores in record.metrics.items():
        if scores is not None and record.primary not in scores:
            hint = did_you_mean(record.primary, scores)
            yield f"primary is {brief(repr(record.primary))}, which metrics.{split} does not hold{hint}"


def _metric_problems(record: RunRecord) -> Iterator[str]:
    for split in ("val", "test"):
        scores, source = record.metrics[split], record.data["splits"][split]
        if scores is None:
            continue
        if record.task is None and not _close(scores["accuracy"], scores["correct"] / scores["n"]):
            share = scores["correct"] / scores["n"]
            yield f"metrics.{split}.accuracy is {scores['accuracy']}, not correct / n = {share}"
        if source is None or source["n"] != scores["n"]:
            size = "null" if source is None else source["n"]
            yield f"metrics.{split}.n is {scores['n']}, but data.splits.{split} has {size}"


def _close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-6)
