"""Robustness of a finished cell, and what the leaderboard says of it, through the command line."""

from __future__ import annotations

import json

import pytest

from peftbench.data import frost
from peftbench.data.strengths import IMAGENET_C
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


def test_further_corruptions_join_the_file_and_tables_that_leave_it_out_are_named(run, results, capsys):
    assert run("-m", "method=bitfit", "seed=0,1", *TINY) == 0
    first, second = sorted(record.fingerprint for record in Store(results).all())
    where = ("--results", str(results))
    for name in (first, second):
        words = ("--corruption", "contrast", "saturate", "--severity", "1", "5", *where)
        assert run("robustness", name, *words, fast=False) == 0
    assert "leaderboard --reliability shows it" in capsys.readouterr().out
    path = results / "robustness" / f"{first}.json"
    before = json.loads(path.read_text())
    assert before["strengths"] == 32
    more = ("--corruption", "brightness", "--severity", "1", *where)
    assert run("robustness", first, *more, fast=False) == 0
    found = json.loads(path.read_text())
    assert found["corrupted"].keys() == {"contrast", "saturate", "brightness"} and found["clean"] == before["clean"]
    assert before["corrupted"].items() <= found["corrupted"].items()
    shown = capsys.readouterr().out
    assert "mean over 1 corruption; images of 16 px, strengths of CIFAR-10-C (32 px)" in shown
    assert " over 3 corruptions" in shown and "leaderboard --reliability shows it" in shown
    # of two kinds the one with more scores is the table's
    assert run("robustness", second, "--corruption", "contrast", "--severity", "1", *where, fast=False) == 0
    assert (
        "leaderboard --reliability does not show it: most files there hold other corruptions; this one lacks "
        "brightness 1" in capsys.readouterr().out
    )


def test_what_the_file_holds_is_looked_at_ahead_of_the_work(run, results, capsys, monkeypatch):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    path = results / "robustness" / f"{record.fingerprint}.json"
    path.parent.mkdir()
    path.write_text("{}")
    monkeypatch.setattr("peftbench.cli.commands.robustness.with_restored", lambda *_: pytest.fail("it was measured"))
    assert run("robustness", record.fingerprint, "--results", str(results), fast=False) == 1
    assert "not the robustness of a record" in capsys.readouterr().err


def test_the_fifteen_of_imagenet_c_have_a_name(run, results, capsys, monkeypatch):
    monkeypatch.setattr(frost, "find_spec", lambda name: None)
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    capsys.readouterr()
    words = ("--corruption", "imagenet_c", "--severity", "1", "--results", str(results))
    assert run("robustness", record.fingerprint, *words, fast=False) == 0
    found = json.loads((results / "robustness" / f"{record.fingerprint}.json").read_text())
    assert found["corrupted"].keys() == set(IMAGENET_C) - {"frost"}
    shown = capsys.readouterr().out
    assert "without frost: frost needs the authors' photographs" in shown and "mean over 14 corruptions" in shown
    assert run("robustness", record.fingerprint, *words, "--frost", "nowhere", fast=False) == 2
    assert "nowhere has no frost1.png" in capsys.readouterr().err


def test_clean_is_the_records_score_where_the_test_looks_several_times(run, results):
    looks = ("protocol.test_flip=true", "protocol.test_scales=[0.5,1.0]")
    words = ["dataset=scenes", "dataset.size=16", "backbone=timm", "backbone.model=vit_tiny_patch16_224"]
    words += ["backbone.weights=none", "backbone.img_size=32", "train=smoke", "train.batch_size=250", *TINY]
    words += ["task=segmentation", "method=bitfit", "train.augment=scale_crop_flip", "runtime.progress=false", *looks]
    assert run(*words, fast=False) == 0
    (record,) = Store(results).all()
    words = ("--corruption", "contrast", "--severity", "1", "--results", str(results))
    assert run("robustness", record.fingerprint, *words, fast=False) == 0
    found = json.loads((results / "robustness" / f"{record.fingerprint}.json").read_text())
    assert found["clean"] == record.score("test")
