"""One run of W&B for each cell, named and grouped so that seeds average."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from peftbench.cells.cell import Cell, plan
from peftbench.cells.loggers import open_logger
from peftbench.config.gate import as_tree
from peftbench.config.runtime import RuntimeSpec
from peftbench.foundation.errors import LoggingUnavailable
from tests.composing import gate
from tests.record_factory import make_record


class Run:
    def __init__(self, **given: Any) -> None:
        self.given, self.rows, self.summary, self.finished = given, [], {}, False

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    made: list[Run] = []

    def init(**given: Any) -> Run:
        made.append(Run(**given))
        return made[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    return made


def cell_of(*words: str) -> tuple[Cell, RuntimeSpec]:
    config, runtime = gate("method=lora", "method.rank=4", *words)
    return plan(config), runtime


def test_seeds_share_a_group_and_nothing_else_does(runs: list[Run], tmp_path) -> None:
    for words in (["seed=0"], ["seed=1"], ["seed=0", "optim.lr=0.01"]):
        with open_logger(*cell_of(f"runtime.results={tmp_path}", "runtime.wandb=offline", *words)) as logger:
            assert logger is not None
    first, second, other = (run.given for run in runs)
    assert first["group"] == second["group"] != other["group"]
    assert len({run.given["id"] for run in runs}) == 3
    assert (first["name"], second["name"]) == ("lora (rank=4)/digits/seed0", "lora (rank=4)/digits/seed1")


def test_a_run_holds_the_options_the_curve_and_what_the_cell_ended_with(runs: list[Run], tmp_path) -> None:
    cell, runtime = cell_of(f"runtime.results={tmp_path}", "runtime.wandb=online")
    record = make_record(accuracy=0.75, memory_bytes=4_000)
    with open_logger(cell, runtime) as logger:
        assert logger is not None
        logger.epoch({"epoch": 1, "loss": 0.5, "lr": 0.1, "val_accuracy": None})
        logger.record(record)
    [run] = runs
    assert (run.given["id"], run.given["resume"]) == (cell.fingerprint, "allow"), "the same cell goes on in its run"
    assert run.given["config"]["method"] == as_tree(cell.config, runtime)["method"]
    assert run.given["config"]["optim"]["lr"] == cell.config.optim.lr and "runtime" not in run.given["config"]
    assert run.rows == [(1, {"epoch": 1, "loss": 0.5, "lr": 0.1})]
    assert run.summary["test/accuracy"] == 0.75 and run.summary["memory_bytes"] == 4_000
    assert run.summary["params/method"] == record.params["method"]
    assert run.finished


def test_a_cell_that_fails_still_ends_its_run(runs: list[Run], tmp_path) -> None:
    with (
        pytest.raises(RuntimeError),
        open_logger(*cell_of(f"runtime.results={tmp_path}", "runtime.wandb=offline")),
    ):
        raise RuntimeError("stopped")
    assert runs[0].finished and not runs[0].summary


def test_off_logs_nothing(runs: list[Run]) -> None:
    with open_logger(*cell_of()) as logger:
        assert logger is None
    assert runs == []


@pytest.mark.parametrize(("mode", "way"), [("online", "runtime.wandb=offline"), ("offline", "runtime.wandb=off ")])
def test_wandb_that_does_not_start_is_one_line_that_names_a_way(monkeypatch, tmp_path, mode: str, way: str) -> None:
    def init(**_: Any) -> None:
        raise OSError("No API key configured.\nUse `wandb login`")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    with (
        pytest.raises(LoggingUnavailable) as raised,
        open_logger(*cell_of(f"runtime.results={tmp_path}", f"runtime.wandb={mode}")),
    ):
        raise AssertionError("the cell was begun")
    shown = str(raised.value)
    assert "\n" not in shown and "No API key configured. Use `wandb login`" in shown and way in shown
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_wandb_that_fails_later_is_said_once_and_stops_nothing(runs, monkeypatch, tmp_path, capsys, failing) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(Run, failing, fails)
    with open_logger(*cell_of(f"runtime.results={tmp_path}", "runtime.wandb=online")) as logger:
        assert logger is not None
        logger.epoch({"epoch": 1, "loss": 0.5})
        logger.epoch({"epoch": 2, "loss": 0.4})
        logger.record(make_record())
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: wandb logs no more of lora") and line.endswith("ConnectionError: gone")
