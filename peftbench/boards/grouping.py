"""Which records are in one table: those of one metric, backbone, protocol and choice of hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from peftbench.boards.shots import family_names
from peftbench.boards.untrained import stands_in, without_recipe
from peftbench.boards.variants import distinct_names
from peftbench.foundation.metric import Metric


class Judged(NamedTuple):
    """What a number is: cells of another task or metric are never in one table."""

    task: str
    metric: str
    better: str
    unit: str

    @property
    def as_metric(self) -> Metric:
        return Metric(self.metric, self.better, self.unit)


class Key(NamedTuple):
    """What one table holds. `family` is that of tables which differ in their shots alone, "" where none are drawn."""

    judged: Judged
    backbone: str
    protocol: str
    hyperparameters: str
    family: str

    def may_stand_in(self, other: Key) -> bool:
        """Whether cells of this table that took no step may stand in another one, if their protocol is the same."""
        return self[:2] == other[:2] and self.hyperparameters == other.hyperparameters


def by_table(records: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """The records of each table; what took no step of training is in those of every recipe of its protocol."""
    backbones = distinct_names(records, "backbone", ("backbone",))
    named = [{**record, "backbone": backbone} for record, backbone in zip(records, backbones, strict=True)]
    tables = _keyed([record for record in named if record["steps"]])
    beside: dict[Key, list[dict[str, Any]]] = {}
    for key, untrained in _keyed(without_recipe(record for record in named if not record["steps"])).items():
        for record in untrained:
            found = [other for other in tables if key.may_stand_in(other) and stands_in(record, tables[other])]
            for place in found or [key]:
                beside.setdefault(place, []).append(record)
    return {key: [*tables.get(key, ()), *beside.get(key, ())] for key in {**tables, **beside}}


def _keyed(records: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    protocols = distinct_names(records, "protocol", ("protocol", "train"))
    tables: dict[Key, list[dict[str, Any]]] = {}
    for record, protocol, family in zip(records, protocols, family_names(records), strict=True):
        judged = Judged(record["task"], record["metric"], record["better"], record["unit"])
        key = Key(judged, record["backbone"], protocol, record["hyperparameters"], family)
        tables.setdefault(key, []).append(record)
    return tables
