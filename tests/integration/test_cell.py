"""One cell from words to leaderboard, and what a user meets on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from peftbench.cells.restore import record_config
from peftbench.foundation.errors import RecordError
from peftbench.records.record import RunRecord
from peftbench.records.store import Store


def only_record(results: Path) -> RunRecord:
    (record,) = Store(results).all()
    return record


def test_a_cell_leaves_one_record_an_adapter_and_its_predictions(run, results, capsys):
    assert run("method=lora", "method.rank=2") == 0
    record = only_record(results)
    assert f"test accuracy {record.metrics['test']['accuracy']:.2%} of 797 images" in capsys.readouterr().out
    # q and v pairs of rank 2 in 6 blocks of width 128; ten classes
    assert record.params["method"] == 6 * 2 * 2 * (128 + 128)
    assert record.params["head"] == 128 * 10 + 10
    assert record.params["backbone"] == 1_198_464
    assert record.labels["method"] == "lora (rank=2)"
    assert [row["epoch"] for row in record.curve] == [1, 2]
    predictions = np.load(Store(results).predictions_path(record.fingerprint), allow_pickle=False)
    assert predictions.shape == (797,)
    with safe_open(Store(results).adapter_path(record.fingerprint), framework="np") as file:
        names = list(file.keys())
        numbers = sum(file.get_tensor(name).size for name in names)
        config = json.loads(file.metadata()["config"])
    assert numbers == record.params["trainable"]
    assert config["method"]["rank"] == 2


def test_costs_of_a_frozen_backbone_are_what_the_definitions_say(run, results):
    assert run("method=linear") == 0
    cost = only_record(results).cost
    assert cost["memory"]["weights_bytes"] == 4 * (1_198_464 + 1_290)
    assert cost["memory"]["gradients_bytes"] == 4 * 1_290
    assert cost["memory"]["optimizer_bytes"] == 2 * 4 * 1_290
    # the head keeps its input: 250 features of width 128
    assert cost["memory"]["saved_bytes"] >= 4 * 250 * 128
    # training only adds the head's backward pass to the forward one
    assert cost["train_flops_per_image"] - cost["forward_flops_per_image"] == 2 * 128 * 10


def test_the_same_words_twice_do_the_work_once(run, results, capsys):
    assert run("method=linear") == 0
    path = Store(results).find(only_record(results).fingerprint)
    before = path.stat().st_mtime_ns
    assert run("method=linear") == 0
    assert run("seed=0", "method=linear") == 0
    assert capsys.readouterr().out.count("already done: linear on digits") == 2
    assert path.stat().st_mtime_ns == before
    assert run("method=linear", "runtime.on_existing=error") == 1


def test_the_second_time_needs_no_torch(run, results):
    assert run("method=linear") == 0
    words = sys.argv[1:]
    code = (
        "import sys; from peftbench.cli.main import main; sys.argv = ['peftbench', *sys.argv[1:]]; code = main();"
        "print(code, 'torch' in sys.modules, 'hydra' in sys.modules)"
    )
    again = [sys.executable, "-c", code, *words]
    # by the first at the latest a process of its own has noted the words, whatever other tests left in this one
    first, second = (subprocess.run(again, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first.startswith("already done: linear on digits") and first.splitlines()[-1].startswith("0 False")
    assert second.startswith("already done: linear on digits") and second.splitlines()[-1] == "0 False False"


def test_evaluate_reproduces_the_recorded_accuracy(run, results, capsys):
    assert run("method=ssf") == 0
    record = only_record(results)
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    shown = capsys.readouterr().out
    assert "reproduced exactly" in shown and f"{record.metrics['test']['accuracy']:.4%}" in shown
    path = str(Store(results).find(record.fingerprint))
    assert run("evaluate", path, "train.epochs=3", fast=False) == 1
    assert "train.epochs was 2, is 3" in capsys.readouterr().err
    store, exported = Store(results), str(results / "exported.safetensors")
    for file in (store.adapter_path(record.fingerprint), store.predictions_path(record.fingerprint)):
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[-1] ^= 1
        for content in (b"half", bytes(flipped)):
            file.write_bytes(content)
            for words in (("evaluate", path), ("export", path, exported)):
                assert run(*words, fast=False) == 1
                [line] = capsys.readouterr().err.splitlines()
                assert f"{file} is not the file that record {record.fingerprint} was made with" in line
        file.write_bytes(whole)
    # a host that was cut off between putting the record and naming its files
    file = store.adapter_path(record.fingerprint)
    file.rename(file.with_name(f"{record.fingerprint}.attempt.safetensors"))
    file.write_bytes(b"another host's")
    assert run("evaluate", path, fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_a_record_and_an_adapter_name_no_place_and_no_variable(run, results, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "folder-named-by-a-variable")
    assert run("method=linear") == 0
    record = only_record(results)
    with safe_open(Store(results).adapter_path(record.fingerprint), framework="np") as file:
        config = json.loads(file.metadata()["config"])
    assert "runtime" not in config and str(results) not in json.dumps(config)
    values = json.loads(record.to_json())
    values["config"]["backbone"]["checkpoint"] = "${oc.env:SECRET}"
    values["config"]["runtime"] = {"results": "${oc.env:SECRET}", "cache": "${oc.env:SECRET}"}
    changed = RunRecord(**values)
    typed, runtime = record_config(changed, ["runtime.device=cpu"])
    assert typed.backbone.checkpoint is None
    assert (runtime.results, runtime.cache, runtime.device) == ("results", None, "cpu")
    values["config"]["backbone"]["title"] = "${oc.env:SECRET}"
    with pytest.raises(RecordError, match=r"backbone\.title was vit_micro, is \$\{oc\.env:SECRET\}"):
        record_config(RunRecord(**values), [])


@pytest.mark.thorough
def test_merged_evaluation_equals_unmerged(run, results):
    assert run("-m", "method=lora", "protocol.merge=false,true") == 0
    first, second = Store(results).all()
    assert first.metrics["test"]["correct"] == second.metrics["test"]["correct"]
    assert run("method=adaptformer", "protocol.merge=true") == 2


def test_two_runs_agree_bit_for_bit_and_order_of_cells_does_not_matter(run, results, tmp_path):
    def numbers(root: Path) -> dict[str, object]:
        return {r.labels["method"]: (r.curve, r.metrics, r.predictions["sha256"]) for r in Store(root).all()}

    other = tmp_path / "other"
    assert run("-m", "method=linear,bitfit") == 0
    assert run("-m", "method=bitfit,linear", f"runtime.results={other}") == 0
    mine, theirs = numbers(results), numbers(other)
    assert mine["linear"] == theirs["linear"]
    assert mine["bitfit"] == theirs["bitfit"]


def test_a_sweep_skips_what_is_done_and_goes_on_past_failures(run, results, capsys):
    assert run("method=linear") == 0
    capsys.readouterr()
    assert run("-m", "method=linear,lora", "optim.lr=1e-2,1e30") == 1
    shown = capsys.readouterr().out
    # lr 0.01 is the linear probe's own rate; 1e30 diverges for both
    assert "1 done, 1 skipped, 2 failed, 0 missing, 0 not applicable" in shown
    failures = Store(results).failures()
    assert {failure.labels["method"] for failure in failures} == {"linear", "lora"}
    assert all("not finite at step" in failure.message and "optim.lr" in failure.message for failure in failures)
    assert all("TrainingDiverged" in failure.traceback for failure in failures)
    assert len(list(Store(results).all())) == 2


def test_choosing_on_validation_never_builds_the_test_split(run, results, monkeypatch):
    from peftbench.data.sources.digits import DigitsSource

    asked: list[str] = []
    original = DigitsSource.split
    monkeypatch.setattr(DigitsSource, "split", lambda self, name: asked.append(name) or original(self, name))
    assert run("protocol=vtab1k_tune", "train.select=best_val", "method=bitfit") == 0
    record = only_record(results)
    assert set(asked) == {"train800", "val200"}
    assert record.metrics["test"] is None and record.metrics["val"]["n"] == 200
    best = max(record.curve, key=lambda row: row["val_accuracy"])
    assert record.selection == {"rule": "best_val", "epoch": best["epoch"]}
    assert record.metrics["val"]["accuracy"] == best["val_accuracy"]


def test_leaderboard_from_records_alone(run, results, capsys):
    assert run("-m", "method=linear", "seed=0,1") == 0
    assert run("leaderboard", "--results", str(results), fast=False) == 0
    capsys.readouterr()
    text = (results / "leaderboard" / "leaderboard.md").read_text()
    accuracies = [r.metrics["test"]["accuracy"] * 100 for r in Store(results).all() if r.labels["method"] == "linear"]
    mean, std = np.mean(accuracies), np.std(accuracies, ddof=1)
    assert f"{mean:.1f} ± {std:.1f}" in text
    assert run("leaderboard", "--results", str(results / "nothing"), fast=False) == 2


@pytest.mark.parametrize("words", [["method=linear", "runtime.wandb=offline"]])
def test_offline_logging_changes_no_number(run, results, words):
    pytest.importorskip("wandb")
    assert run(*words) == 0
    logged = list((results / "work" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logged) == 1 and logged[0].stat().st_size > 0
    first = only_record(results)
    Store(results).find(first.fingerprint).unlink()
    assert run("method=linear") == 0
    assert only_record(results).metrics == first.metrics


@pytest.mark.parametrize("signal_number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_an_interrupted_cell_leaves_nothing_behind(results, signal_number):
    words = ["method=full", "train.epochs=5000", "dataset=digits", f"runtime.results={results}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "peftbench", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # a test run in the background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list((results.parent / "cache" / "images").glob("*.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "peftbench: interrupted; nothing was recorded for the cell that was running"
    assert "Traceback" not in errors
    assert not list(results.rglob("*.json")) and not list(results.rglob("*.safetensors"))


def test_a_head_of_few_bits_is_counted_restored_and_exported(run, results, capsys):
    words = ("method=bi_adaptformer", "method.head_bits=1", "method.bottleneck=4")
    assert run(*words) == 0
    record = only_record(results)
    assert record.labels["method"] == "bi_adaptformer (bottleneck=4, head_bits=1)"
    # ten classes without a bias on 128 channels; six blocks
    assert (record.params["head"], record.params["method"]) == (1280, 6 * 2 * 128 * 4)
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    assert run("export", record.fingerprint, "x.safetensors", "--results", str(results), fast=False) == 0
    assert run(*words, "train.head_dropout=0.5") == 2
    assert "train.head_dropout is of a plain head" in capsys.readouterr().err
