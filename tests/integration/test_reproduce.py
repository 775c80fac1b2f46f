"""Running a record again, and sharing its adapter, through the command line."""

from __future__ import annotations

import json

import timm
import torch
from safetensors.torch import load_file

from peftbench.backbones.weights import embedded_file
from peftbench.reproduce_command import number_differences, setting_differences, verdict
from peftbench.results.store import Store
from peftbench.sharing import adapter_facts, with_adapter
from tests.integration.test_sweeps import TINY


def test_a_record_is_reproduced_bit_for_bit(run, results, capsys):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    before = sorted(path for path in results.rglob("*") if path.is_file())
    capsys.readouterr()
    assert run("reproduce", record.fingerprint, "--results", str(results), fast=False) == 0
    shown = capsys.readouterr().out
    assert "reproduced bit for bit" in shown and "what else differs" not in shown
    assert sorted(path for path in results.rglob("*") if path.is_file()) == before


def test_what_differs_is_named_and_measured(run, results, capsys):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    path = Store(results).find(record.fingerprint)
    values = json.loads(path.read_text())
    values["metrics"]["test"]["loss"] += 0.125
    values["curve"][0]["loss"] += 0.25
    values["provenance"]["versions"]["torch"] = "1.0"
    values["provenance"]["machine"]["cpu"] = "an abacus"
    path.write_text(json.dumps(values))
    capsys.readouterr()
    assert run("reproduce", str(path), "runtime.progress=false", fast=False) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("not the same numbers:")
    assert "test loss: " in shown and "equal before epoch 1" in shown and "losses by 2.5e-01" in shown
    assert "torch: 1.0 -> " in shown and "cpu: an abacus -> " in shown


def test_equal_settings_and_unequal_numbers_are_called_wrong():
    assert verdict(["test loss: 1 -> 2"], [])[-1].endswith("this should not be")


def test_a_record_of_other_code_is_not_run(run, results, capsys):
    assert run("method=linear", *TINY) == 0
    (record,) = Store(results).all()
    assert run("reproduce", record.fingerprint, "dataset.seed=1", fast=False) == 2 - 1
    assert "is not the cell of record" in capsys.readouterr().err
    assert number_differences(record, record) == [] and setting_differences(record, record) == []


def test_an_exported_adapter_gives_the_recorded_predictions_on_a_plain_timm_model(run, results, tmp_path, capsys):
    words = [word for word in TINY if "img_size" not in word]
    assert run("method=lora", *words) == 0
    (record,) = Store(results).all()
    target = tmp_path / "digits.safetensors"
    assert run("export", record.fingerprint, str(target), fast=False) == 0
    assert f"wrote {target}: lora on digits" in capsys.readouterr().out
    net = timm.create_model("vit_micro_patch4_32", num_classes=0)
    net.load_state_dict(load_file(embedded_file()), strict=False)
    model = with_adapter(net, target)
    from peftbench.evaluate_command import restore_and_evaluate

    evaluation = restore_and_evaluate(record, Store(results), [])
    assert evaluation.correct == record.metrics["test"]["correct"]
    facts = adapter_facts(target)
    assert facts["accuracy"] == record.metrics["test"]["accuracy"] and len(facts["class_names"]) == 10
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
