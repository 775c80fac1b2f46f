"""A trained cell on the test split of another data set: cross-dataset transfer and domain generalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

from peftbench.adapters.file import read_adapter
from peftbench.cells.measure import measure_split
from peftbench.cells.restore import record_config, with_tensors
from peftbench.config.compose import Trees
from peftbench.config.gate import Builder
from peftbench.config.words import problems_of
from peftbench.data.base import DatasetSpec
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.metric import Metric
from peftbench.records.owned import own_adapter
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.tasks.text_classification import TextClassification
from peftbench.train.evaluate import Evaluation


@dataclass(frozen=True)
class Elsewhere:
    """What was measured on the data set `label`, and the metric to read it by."""

    label: str
    metric: Metric
    evaluation: Evaluation


def names_dataset(words: Sequence[str]) -> bool:
    """Whether the words ask for another data set."""
    return any(word.startswith("dataset=") for word in words)


def evaluate_elsewhere(record: RunRecord, store: Store, words: Sequence[str]) -> Elsewhere:
    """The test split that `dataset=...` names, whose class names are read as those of the record's own data set were.

    Where both are of one kind, the place that the words name holds the record's own data set too. Raises
    `NotApplicable` where the record reads no class names or what it learned belongs to its own classes, and what
    `with_restored` raises.
    """
    of_dataset = [word for word in words if word.startswith(("dataset=", "dataset."))]
    if problems := problems_of(of_dataset):
        raise ConfigError(problems)
    tree = Trees().of(of_dataset)["dataset"]
    dataset = cast(DatasetSpec, Builder().build("dataset", tree))
    places: tuple[str, ...] = ()
    if record.config["dataset"].get("kind") == dataset.name:
        places = tuple(f"dataset.{field.name}=" for field in fields(dataset) if field.metadata.get("location"))
    own = [word for word in words if word not in of_dataset or word.startswith(places)]
    config, runtime = record_config(record, own)
    if not isinstance(config.task, TextClassification):
        raise NotApplicable(
            f"record {record.fingerprint} has a head for its own classes; another data set needs "
            "task=text_classification, which reads class names"
        )
    if config.method.bound_to_classes:
        raise NotApplicable(f"what {config.method.label} learned belongs to the classes of {record.labels['dataset']}")
    path = own_adapter(store, record)
    tensors, _ = read_adapter(path)
    found = with_tensors(
        record,
        replace(config, dataset=dataset),
        runtime,
        tensors,
        path,
        lambda moved, parts: measure_split(moved, parts, parts.data.split("test")),
    )
    return Elsewhere(dataset.label, config.task.metric, found)
