"""From a record back to its cell: the configuration it ran with, its adapter loaded, its test split read again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from peftbench.adapters.file import load_adapter, read_adapter, take_findings
from peftbench.cells.cell import Cell, plan
from peftbench.cells.last_block import recorded
from peftbench.cells.measure import fold, measure_test
from peftbench.cells.parts import Parts, build_parts
from peftbench.cells.settled import settled
from peftbench.config.gate import FIXED, RunConfig, from_tree
from peftbench.config.overrides import option_values
from peftbench.config.parts import NAMED
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation import attention, matmul
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput, RecordError, brief, settled_by_a_record
from peftbench.foundation.location import user_path
from peftbench.foundation.progress import Progress
from peftbench.foundation.spec import defaults_of
from peftbench.records.owned import own_adapter, own_predictions
from peftbench.records.reading import read_record
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.train.evaluate import Evaluation

T = TypeVar("T")


def find_record(named: str, results: Path) -> tuple[RunRecord, Store]:
    """The record under this file name or fingerprint, and the store it belongs to.

    Raises `MissingInput` when there is none, `BadInput` when it cannot be read.
    """
    path = user_path(named, "the record")
    if path.suffix != ".json":
        store, stands = Store(results), False
        try:
            stands = store.find(named) is not None
            if not stands and (shipped := store.shipped(named, ".json")).is_file():
                return read_record(shipped), store
            return store.get(named), store
        except RecordError as error:
            if stands:
                raise BadInput(str(error)) from error
            raise MissingInput(f"{brief(error, 400)}; name a record's file or a fingerprint under --results") from error
    if not path.is_file():
        raise MissingInput(f"there is no record at {path}")
    try:
        record = read_record(path)
    except RecordError as error:
        raise BadInput(str(error)) from error
    inside = [parent for parent in path.resolve().parents if parent.name == "records"]
    return record, Store(inside[0].parent if inside else results)


def restore_and_evaluate(record: RunRecord, store: Store, options: list[str]) -> Evaluation:
    """Rebuild the cell from its record, load the adapter, and evaluate the test split. Raises as `with_restored`."""
    if record.metrics["test"] is None:
        raise RecordError(f"record {record.fingerprint} has no test result to reproduce (protocol.report_test=false)")
    own_predictions(store, record)
    return with_restored(record, store, options, measure_test)


def with_restored(record: RunRecord, store: Store, options: list[str], use: Callable[[RunConfig, Parts], T]) -> T:
    """What `use` makes of the cell of a record, rebuilt with its trained tensors; `options` say where its inputs are.

    Raises `MissingInput` when adapter, data or weights are not here, `RecordError` when they are not the record's.
    """
    option_values(options)  # wrong words are told before any file is looked for
    path = own_adapter(store, record)
    tensors, _ = read_adapter(path)
    config, runtime = record_config(record, options)
    return with_tensors(record, config, runtime, tensors, path, use)


def with_tensors(
    record: RunRecord,
    config: RunConfig,
    runtime: RuntimeSpec,
    tensors: dict[str, Tensor],
    path: Path,
    use: Callable[[RunConfig, Parts], T],
) -> T:
    """What `use` makes of a cell that a record settled, with trained tensors, which were read from `path`.

    The last block runs for the tokens that it ran for in the record's own cell. Raises `MissingInput` when data or
    weights are not here, `BadInput` for tensors that do not fit.
    """
    with settled(runtime, config.train):
        findings = take_findings(tensors)
        with settled_by_a_record():
            parts = build_parts(config, runtime, Progress(runtime.progress), findings)
        load_adapter(parts.model, tensors, path)
        fold(config, parts)
        with recorded(parts.model, record.cost.get("last_block")).in_use():
            return use(config, parts)


# sections that choose cells or place them, and say nothing of one that is chosen
_UNUSED = ("tune", "launcher")


def record_config(record: RunRecord, options: list[str]) -> tuple[RunConfig, RuntimeSpec]:
    """The configuration of a record's cell on this machine; `options` say where its inputs are.

    Of the record only hyperparameters are taken, and its words as they are: neither it nor an adapter can name a
    place or an environment variable. Raises `ConfigError` for wrong options, `MissingInput` when data or weights are
    not here, `RecordError` when they, or the code, are not the record's.
    The kernels that computed for the record do so again unless the options say otherwise.
    """
    tree = {**_without_places(record.config), "runtime": {**defaults_of(RuntimeSpec), **_kernels(record)}}
    for option, value in option_values(options).items():
        section, _, name = option.partition(".")
        if not name:
            raise ConfigError([f"'{option}=...': the parts of a recorded cell are settled; write section.option=value"])
        if section in _UNUSED:
            raise ConfigError([f"{option}: a recorded cell has no use for it; leave it out"])
        own = tree.get(section)
        tree[section] = {**(own if isinstance(own, dict) else {}), name: value}
    typed, runtime = from_tree(tree)
    with settled_by_a_record():
        cell = plan(typed)
    if cell.fingerprint != record.fingerprint:
        raise RecordError(
            f"this is not the cell of record {record.fingerprint}: "
            f"{identity_difference(record.identity, cell.identity)}; "
            f"the record was made by commit {record.provenance['git_commit']}{_weights_hint(record, cell)}"
        )
    return typed, runtime


def _kernels(record: RunRecord) -> dict[str, str]:
    """What computed for the record, whose bits depend on it; torch's own choice where that is not here."""
    facts = record.provenance["machine"]
    library, kind = facts.get("matmul", matmul.TORCH), facts.get("attention_grad", attention.TORCH)
    return {
        "matmul": library if library in matmul.CHOICES and matmul.available() else matmul.TORCH,
        "attention_grad": kind if kind in attention.CHOICES else attention.TORCH,
    }


def _weights_hint(record: RunRecord, cell: Cell) -> str:
    """What to set where the weights are not the record's."""
    was, now = (identity["backbone"]["weights"].split("+") for identity in (record.identity, cell.identity))
    wanted = ["backbone.checkpoint=FILE"] if was[0] != now[0] else []
    wanted += ["backbone.writer=FOLDER"] if was[1:] != now[1:] else []
    return f"; name the weights it was made with: {' '.join(wanted)}" if wanted else ""


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A record's configuration without options that name places; one that has some was not written here."""
    kept = {}
    for section, values in config.items():
        places: set[str] = set()
        if isinstance(values, dict) and section in {**FIXED, **NAMED}:
            key, registry = NAMED.get(section, ("", None))
            cls = registry().get(str(values.get(key))) if registry else FIXED[section]
            places = {field.name for field in dataclasses.fields(cls) if field.metadata.get("location")}
        kept[section] = {k: v for k, v in values.items() if k not in places} if places else values
    return kept


def identity_difference(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """The first option in which two identities differ."""
    for section, values in recorded.items():
        if values != now.get(section):
            if not isinstance(values, dict):
                return f"{section} was {values}, is {now.get(section)}"
            present = now.get(section, {})
            for key in {**values, **present}:
                if values.get(key) != present.get(key):
                    return f"{section}.{key} was {values.get(key)}, is {present.get(key)}"
    return "its identity has other sections"
