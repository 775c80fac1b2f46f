"""`python -m peftbench evaluate RECORD`: restore a cell's adapter and reproduce its recorded test accuracy."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from peftbench.adapter_file import load_adapter, read_adapter, take_findings
from peftbench.cell import plan
from peftbench.config import RunConfig, to_run_config
from peftbench.errors import ConfigError, RecordError
from peftbench.progress import Progress
from peftbench.results.record import RunRecord
from peftbench.results.store import Store
from peftbench.runtime import RuntimeSpec
from peftbench.seeding import deterministic
from peftbench.setup import pick_device, set_up
from peftbench.spec import defaults_of
from peftbench.train.evaluate import Evaluation, evaluate


def main(words: list[str]) -> int:
    """Exit code 0 when predictions and accuracy equal the record's, 1 when they differ."""
    arguments = record_parser("evaluate", __doc__).parse_args(words)
    record, store = find_record(arguments.record, arguments.results)
    result = restore_and_evaluate(record, store, arguments.options)
    recorded = record.metrics["test"]
    same = result.correct == recorded["correct"] and result.n == recorded["n"]
    print(f"recorded {recorded['accuracy']:.4%} of {recorded['n']:,}; now {result.accuracy:.4%} of {result.n:,}")
    print(
        "reproduced exactly" if same else f"differs by {result.correct - recorded['correct']:+d} images",
        file=sys.stdout,
    )
    return 0 if same else 1


def record_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """The words of a command on one record: RECORD, where its inputs are, and the results folder."""
    parser = argparse.ArgumentParser(prog=f"peftbench {command}", description=(doc or "").partition(": ")[2])
    parser.add_argument("record", help="a record's file, or its fingerprint under --results")
    parser.add_argument(
        "options", nargs="*", help="where inputs are on this machine, e.g. dataset.root=DIR runtime.device=cpu"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    return parser


def find_record(named: str, results: Path) -> tuple[RunRecord, Store]:
    """The record under this file name or fingerprint, and the store it belongs to. Raises `RecordError`."""
    path = Path(named)
    if path.suffix != ".json":
        store = Store(results)
        return store.get(named), store
    if not path.is_file():
        raise RecordError(f"there is no record at {path}")
    record = RunRecord.from_json(path.read_text(encoding="utf-8"))
    inside = [parent for parent in path.resolve().parents if parent.name == "records"]
    return record, Store(inside[0].parent if inside else results)


def restore_and_evaluate(record: RunRecord, store: Store, options: list[str]) -> Evaluation:
    """Rebuild the cell from its adapter's configuration, load the adapter, and evaluate the test split.

    Raises `MissingInput` when adapter, data or weights are not here, `RecordError` when they are not the record's.
    """
    if record.metrics["test"] is None:
        raise RecordError(f"record {record.fingerprint} has no test result to reproduce (protocol.report_test=false)")
    path = store.adapter_path(record.fingerprint)
    tensors, metadata = read_adapter(path)
    config, runtime = record_config(record, options, json.loads(metadata["config"]))
    with deterministic(pick_device(runtime.device)):
        findings = take_findings(tensors)
        setup = set_up(config, dataclasses.replace(runtime, wandb="off"), Progress(runtime.progress), findings)
        load_adapter(setup.model, tensors, path)
        if config.protocol.merge:
            config.method.merge(setup.model.backbone)
        test = setup.load("test")
        return evaluate(setup.model, setup.eval_batches(test), setup.source.num_classes, config.train.precision)


def record_config(
    record: RunRecord, options: list[str], tree: dict[str, Any] | None = None
) -> tuple[RunConfig, RuntimeSpec]:
    """The configuration of a record's cell on this machine; `tree` is it with the places of inputs, where known.

    Raises `ConfigError` for wrong options, `MissingInput` when data or weights are not here, `RecordError` when they,
    or the code, are not the record's.
    """
    config = OmegaConf.create(tree or {**record.config, "runtime": defaults_of(RuntimeSpec)})
    OmegaConf.set_struct(config, False)
    try:
        config.merge_with_dotlist(options)
    except Exception as error:
        raise ConfigError([f"options must be of the form section.option=value: {error}"]) from error
    typed, runtime = to_run_config(config)
    cell = plan(typed)
    if cell.fingerprint != record.fingerprint:
        raise RecordError(
            f"this is not the cell of record {record.fingerprint}: "
            f"{identity_difference(record.identity, cell.identity)}; "
            f"the record was made by commit {record.provenance['git_commit']}"
        )
    return typed, runtime


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
