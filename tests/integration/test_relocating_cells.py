"""Cells whose prompts move between epochs, from words to a restored record."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from peftbench.records.store import Store


def test_prompts_move_and_the_record_knows_where_they_are(run, results, capsys):
    assert run("method=pro_vpt", "method.num_tokens=2", "method.warmup_epochs=0", "train.epochs=4") == 0
    (record,) = Store(results).all()
    (adapter,) = results.rglob("*.safetensors")
    place = load_file(adapter)["backbone.shared.prompts.place"]
    assert sorted(place.tolist()) != sorted(list(range(6)) * 2)
    assert record.params["method"] == 12 * 128 and record.cost["capture"].startswith("pro_vpt takes another path")
    assert run("reproduce", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "advice"),
    [("train.compile=true", "set train.compile=false"), ("optim.average_mean=1", "set optim.average_mean=null")],
)
def test_what_takes_one_network_for_all_epochs_is_refused_ahead_of_any_cell(run, results, capsys, option, advice):
    for more in (["--dry-run"], []):
        assert run("method=pro_vpt", option, *more) == 2
        assert f"pro_vpt rearranges the network between epochs; {advice}" in capsys.readouterr().err
    assert not list(results.rglob("*.txt")) and not list(results.rglob("*.json"))
