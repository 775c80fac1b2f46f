"""Measuring a packed cell again is refused before any training, and only a lost race is taken for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from peftbench.api.cells import run as run_cells
from peftbench.cli.commands import pack as pack_command
from peftbench.foundation.errors import HeldPacked, RecordError
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from peftbench.sweep import attempt
from tests.integration.conftest import FAST
from tests.integration.test_sweeps import TINY, counts

WORDS = ["method=linear", *TINY]
RERUN = "runtime.on_existing=rerun"


@pytest.fixture
def packed(run, results: Path) -> RunRecord:
    """The record of a cell, which lies in a pack of its own."""
    assert run(*WORDS) == 0
    assert run("pack", "mine", "--results", str(results), fast=False) == 0
    (record,) = Store(results).all()
    return record


def no_training(*_: object) -> None:
    pytest.fail("the cell was trained")


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_it_is_refused_with_what_to_do_and_works_once_it_is_done(run, results, packed, capsys, monkeypatch, flags):
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "run_cell", no_training)
        assert run(*flags, *WORDS, RERUN) == 1
    (line,) = capsys.readouterr().err.splitlines()
    said = "results/records/mine.jsonl.gz holds this cell packed; unpack it to measure again: pack mine --unpack"
    assert line.startswith(f"peftbench: {said}")
    assert run(*line.partition("again: ")[2].split(), fast=False) == 0
    assert run(*flags, *WORDS, RERUN) == 0
    assert len(list((results / "work" / "replaced").iterdir())) == 1


def test_the_python_interface_refuses_it_too(results, packed, monkeypatch):
    monkeypatch.setattr(attempt, "run_cell", no_training)
    with pytest.raises(HeldPacked, match="holds this cell packed"):
        run_cells(*FAST, *WORDS, RERUN)


def test_what_is_packed_after_the_plan_fails_with_the_reason_and_without_a_note(run, results, capsys, monkeypatch):
    assert run(*WORDS) == 0
    plan = attempt.tuned

    def packed_meanwhile(cell, runtime, store):
        pack_command.pack(store, store.records_folder / "mine.jsonl.gz", {})
        return plan(cell, runtime, store)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "tuned", packed_meanwhile)
        assert run("-m", *WORDS, RERUN) == 1
    shown = capsys.readouterr().out
    assert counts(shown)["failed"] == 1 and "holds this cell packed; unpack it" in shown
    assert Store(results).failures() == []


def test_a_record_that_cannot_be_written_is_no_lost_race(run, results, capsys, monkeypatch):
    """The old record is there all the same."""
    assert run(*WORDS) == 0
    capsys.readouterr()

    def no_space(self, record, replace=False):
        raise RecordError("cannot write: no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", no_space)
        assert run(*WORDS, RERUN) == 1
    assert "no space left on the device" in capsys.readouterr().err
    assert "no space left" in Store(results).failures()[0].message


def test_a_race_that_another_host_has_won_is_said(run, results, capsys, monkeypatch):
    train = attempt.run_cell

    def slower(cell, runtime, store, progress):
        train(cell, runtime, store, progress)
        return train(cell, replace(runtime, on_existing="skip"), store, progress)

    monkeypatch.setattr(attempt, "run_cell", slower)
    assert run(*WORDS) == 0
    assert "another worker has recorded it meanwhile" in capsys.readouterr().out
    assert Store(results).failures() == [] and len(list(Store(results).all())) == 1


def test_the_advice_for_a_missing_adapter_unpacks_first(run, results, packed, capsys):
    Store(results).adapter_path(packed.fingerprint).unlink()
    assert run("evaluate", packed.fingerprint, "--results", str(results), fast=False) == 2
    assert f"or pack mine --unpack --results {results} first, then run the cell again with" in capsys.readouterr().err


def test_packing_during_a_sweep_trains_nothing_twice_and_fails_nothing(run, results, capsys, monkeypatch):
    train, trained = attempt.run_cell, []

    def then_packed(cell, runtime, store, progress):
        trained.append(cell.fingerprint)
        record = train(cell, runtime, store, progress)
        pack_command.pack(store, store.records_folder / "mine.jsonl.gz", {})
        return record

    monkeypatch.setattr(attempt, "run_cell", then_packed)
    assert run("-m", *WORDS, "seed=0,1") == 0
    assert counts(capsys.readouterr().out)["done"] == len(trained) == 2
    assert run("-m", *WORDS, "seed=0,1") == 0
    assert counts(capsys.readouterr().out)["skipped"] == len(trained) == 2
