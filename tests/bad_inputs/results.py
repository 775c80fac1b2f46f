"""Results folders that hold what no run leaves there, and records whose files are not theirs."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.single import run_words
from tests import record_factory

# a cell of a second, and the words that the tables say for it
TINY = (
    "dataset=digits",
    "method=bitfit",
    "backbone.img_size=8",
    "train=smoke",
    "train.epochs=1",
    "train.batch_size=250",
    "runtime.measure_cost=false",
    "runtime.progress=false",
)
NAME = "0123456789abcde"


def make_strange_store(place: Path) -> None:
    """Two good records among pipes, folders, links and files that are none."""
    store = Store(place)
    for seed in range(2):
        store.put(record_factory.make_record(seed=seed))
    folder = store.record_files()[0].parent
    os.mkfifo(folder / f"{NAME}1.json")
    (folder / f"{NAME}2.json").mkdir()
    (folder / f"{NAME}3.json").symlink_to("nowhere")
    (folder / f"{NAME}4.json").symlink_to(f"{NAME}4.json")
    (folder / "red\x1b[31m.json").write_text("{}")
    os.mkfifo(store.records_folder / "pipe.jsonl.gz")
    (store.records_folder / "dead.jsonl.gz").symlink_to("nowhere")
    (store.records_folder / "folder.jsonl.gz").mkdir()
    make_bomb_store(place)


def make_bomb_store(place: Path) -> None:
    """Nothing but a pack of a few bytes that would fill the memory."""
    (place / "records").mkdir(parents=True, exist_ok=True)
    header = b'{"pack": 1, "fingerprints": ["0000000000000000"]}\n'
    (place / "records" / "bomb.jsonl.gz").write_bytes(gzip.compress(header + b" " * 70_000_000, 1))


def make_beyond_store(place: Path) -> None:
    """A good record beside one of a seed that tables cannot hold."""
    store = Store(place)
    store.put(record_factory.make_record(seed=0))
    values = record_factory.record_values(seed=2**63)
    path = store.path_of(values["labels"], values["fingerprint"])
    path.write_text(json.dumps(values))


def make_claimed_store(place: Path) -> None:
    """The tiny cell, claimed by a file that is dated a year ahead and names nobody."""
    grid, _ = plan_grid([*TINY, f"runtime.results={place}"])
    claim = place / "work" / "claims" / f"{grid.cells[0].fingerprint}.1.json"
    claim.parent.mkdir(parents=True)
    claim.write_text("{}")
    ahead = time.time() + 365 * 86_400
    os.utime(claim, (ahead, ahead))


def make_trained(place: Path) -> Path:
    """The record of the tiny cell."""
    run_words([*TINY, f"runtime.results={place}"], silent=True)
    return Store(place).record_files()[0]


def make_flipped_adapter(place: Path) -> Path:
    return _trained(place, adapter=_flipped)


def make_flipped_predictions(place: Path) -> Path:
    return _trained(place, predictions=_flipped)


def make_no_adapter(place: Path) -> Path:
    path = _trained(place)
    shutil.rmtree(place / "work" / "adapters")
    return path


def make_text_adapter(place: Path) -> Path:
    """No tensors, and a record that calls them its own."""
    return _trained(place, believed=True, adapter=lambda content: b"404: not found")


def make_list_adapter(place: Path) -> Path:
    return _trained(place, believed=True, adapter=lambda content: (2).to_bytes(8, "little") + b"[]")


def make_other_adapter(place: Path) -> Path:
    """Whole tensors of another model."""

    def other(content: bytes) -> bytes:
        path = place / "other.safetensors"
        save_file({"layer.weight": torch.zeros(3, 3)}, path, metadata={"config": "[1]", "fingerprint": "../x"})
        return path.read_bytes()

    return _trained(place, believed=True, adapter=other)


def make_object_predictions(place: Path) -> Path:
    """An array of Python objects, which only a pickle could hold."""

    def objects(content: bytes) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.array([Path("x")], dtype=object), allow_pickle=True)
        return buffer.getvalue()

    return _trained(place, believed=True, predictions=objects)


def make_told_nothing(place: Path) -> Path:
    return _exported(place, lambda metadata: None)


def make_told_format_only(place: Path) -> Path:
    return _exported(place, lambda metadata: {"format": metadata["format"]})


def make_told_text(place: Path) -> Path:
    return _exported(place, lambda metadata: metadata | {"facts": "{"})


def make_told_list(place: Path) -> Path:
    return _exported(place, lambda metadata: metadata | {"facts": "[1]"})


def make_told_huge_seed(place: Path) -> Path:
    return _told(place, seed=2**70)


def make_told_names(place: Path) -> Path:
    return _told(place, class_names=[1, 2])


def make_told_task(place: Path) -> Path:
    return _told(place, task="classification")


def make_told_resize(place: Path) -> Path:
    return _told(place, images={"resize": "stretch"})


def make_told_size(place: Path) -> Path:
    return _told(place, images={"size": 10**9})


def make_told_spread(place: Path) -> Path:
    return _told(place, images={"std": [0, 0, 0]})


def make_told_place(place: Path) -> Path:
    return _told(place, backbone={"model": "local-dir:/etc"})


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _trained(
    place: Path,
    believed: bool = False,
    adapter: Callable[[bytes], bytes] = bytes,
    predictions: Callable[[bytes], bytes] = bytes,
) -> Path:
    """The tiny record with other files; `believed`: it holds their digests. Trained once for all of these."""
    trained = place.parent / "trained"
    if not trained.is_dir():
        make_trained(trained)
    shutil.copytree(trained, place)
    store = Store(place)
    path = store.record_files()[0]
    record = RunRecord.from_json(path.read_text())
    digests = {}
    for name, file, change in (
        ("adapter", store.adapter_path(record.fingerprint), adapter),
        ("predictions", store.predictions_path(record.fingerprint), predictions),
    ):
        file.write_bytes(change(file.read_bytes()))
        digests[name] = {**getattr(record, name), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    if believed:
        path.write_text(dataclasses.replace(record, **digests).to_json())
    return path


def _exported(place: Path, change: Callable[[dict[str, str]], dict[str, str] | None]) -> Path:
    """An exported file of the tiny cell that says something else of itself."""
    from peftbench.cells.export import export_record

    whole = place.parent / "exported.safetensors"
    if not whole.is_file():
        path = _trained(place.parent / "to_export")
        export_record(RunRecord.from_json(path.read_text()), Store(place.parent / "to_export"), [], whole)
    with safe_open(whole, framework="pt") as file:
        metadata = dict(file.metadata())
    path = place.with_suffix(".safetensors")
    save_file(load_file(whole), path, metadata=change(metadata))
    return path


def _told(place: Path, **changes: Any) -> Path:
    """An exported file with other facts; those that are objects keep what is not named."""

    def changed(metadata: dict[str, str]) -> dict[str, str]:
        facts = json.loads(metadata["facts"])
        for name, value in changes.items():
            facts[name] = {**facts[name], **value} if isinstance(value, dict) else value
        return metadata | {"facts": json.dumps(facts)}

    return _exported(place, changed)
