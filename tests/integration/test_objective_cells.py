"""Cells with an objective of their own, from words to leaderboard."""

from __future__ import annotations

import pytest

from peftbench.interventions.guided import Guidance
from peftbench.records.store import Store


@pytest.mark.parametrize(
    ("words", "label", "own"),
    [
        (["method=lora", "objective=gist", "objective.temperature=1"], "lora + gist (temperature=1.0)", 128),
        # nothing trains in the backbone, but the teacher needs the images: 2 * 129 * 10 + 21 * 32 + 10
        (["method=linear", "objective=pesf_kd"], "linear + pesf_kd", 3_262),
        (["method=lora", "objective=pace", "objective.form=fast"], "lora + pace (form=fast)", 0),
        (
            ["method=lora", "objective=pace", "objective.form=lazy", "objective.interval=3"],
            "lora + pace (form=lazy, interval=3)",
            0,
        ),
    ],
)
def test_a_cell_with_an_objective_names_it_counts_it_and_restores_it(run, results, capsys, words, label, own):
    assert run(*words) == 0
    (record,) = Store(results).all()
    assert record.labels["method"] == label
    assert record.identity["objective"]["name"] == words[1].removeprefix("objective=")
    assert record.params["objective"] == own
    assert record.params["method"] == own + (6 * 2 * 8 * (128 + 128) if "lora" in label else 0)
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    assert f"| {label} " in (results / "leaderboard" / "leaderboard.md").read_text()


def test_an_objective_that_a_backbone_or_method_has_no_place_for_is_not_applicable(run, capsys):
    backbone = ["backbone=timm", "backbone.model=convnext_atto", "backbone.weights=none", "backbone.img_size=32"]
    assert run("method=bitfit", "objective=gist", *backbone) == 3
    assert "gist adds a token to one sequence" in capsys.readouterr().err
    assert run("method=dtl", "objective=gist") == 3
    assert "gist reads its token where the backbone pools" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["method=da_vpt", "method.num_guided=4"], "da_vpt (num_guided=4) + da_vpt"),
        pytest.param(
            ["method=sa2vp", "method.hidden_dim=4"],
            "sa2vp (hidden_dim=4) + prompt_stream",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_method_trains_with_the_objective_that_belongs_to_it(run, results, capsys, monkeypatch, words, label):
    renewed = []
    monkeypatch.setattr(Guidance, "renew", lambda self: renewed.append(self.epoch))
    assert run(*words, "train.epochs=2") == 0
    assert len(renewed) == (2 if "da_vpt" in label else 0)
    (record,) = Store(results).all()
    assert record.labels["method"] == label and record.params["objective"] == 0
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
