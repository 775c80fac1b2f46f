"""Robustness of a finished cell, and what the leaderboard says of it, through the command line."""

from __future__ import annotations

import json

import pytest

from peftbench.records.store import Store
from tests.integration.test_sweeps import TINY


def test_an_adapter_is_read_on_corrupted_images_and_shown_beside_its_row(run, results, capsys):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    words = ("--corruption", "contrast", "gaussian_noise", "--severity", "1", "5", "--results", str(results))
    capsys.readouterr()
    assert run("robustness", record.fingerprint, *words, fast=False) == 0
    assert "wrote" in capsys.readouterr().out
    found = json.loads((results / "robustness" / f"{record.fingerprint}.json").read_text())
    assert found["clean"] == record.metrics["test"]["accuracy"]
    scores = [found["corrupted"][name][severity] for name in ("gaussian_noise", "contrast") for severity in ("1", "5")]
    assert sum(map(len, found["corrupted"].values())) == len(scores) == 4
    assert len({found["clean"], *scores}) > 1
    assert run("robustness", record.fingerprint, *words, fast=False) == 0
    assert json.loads((results / "robustness" / f"{record.fingerprint}.json").read_text()) == found

    assert run("leaderboard", "--reliability", "--no-report", "--results", str(results), fast=False) == 0
    folder = (
        results / "work" / "leaderboard" if (results / "work" / "leaderboard").is_dir() else results / "leaderboard"
    )
    (table,) = json.loads((folder / "reliability.json").read_text())["tables"]
    (row,) = table["rows"]
    assert row["corrupted"] == pytest.approx(100 * sum(scores) / 4)
    assert row["ece"] == pytest.approx(100 * record.metrics["test"]["ece"])
    assert row["iqm"] == pytest.approx(100 * found["clean"]) and row["iqm_low"] is None
