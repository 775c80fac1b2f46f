"""A sweep from words to its summary: planning, skipping, failing, retrying, status."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest

from peftbench.records.claims import claims_of
from peftbench.records.store import Store
from tests.integration.conftest import FAST

# the smallest real cells: one epoch, no cost probe
TINY = ["train.epochs=1", "runtime.measure_cost=false", "runtime.threads=1"]


def counts(shown: str) -> dict[str, int]:
    last = shown.strip().splitlines()[-1]
    return {state: int(count) for count, state in re.findall(r"(\d+) ([a-z ]+)", last)}


def test_a_grid_runs_once_and_equal_cells_fall_together(run, results, capsys):
    # vpt is another name of vpt_deep
    assert run("-m", "method=linear,vpt,vpt_deep", "seed=0,1", *TINY) == 0
    shown = capsys.readouterr().out
    assert counts(shown) == {"done": 4, "skipped": 0, "failed": 0, "missing": 0, "not applicable": 0}
    assert len(list(Store(results).all())) == 4
    assert run("-m", "method=linear,vpt_deep", "seed=range(3)", *TINY) == 0
    assert counts(capsys.readouterr().out)["done"] == 2
    assert {record.provenance["command"][-1] for record in Store(results).all()} == {"seed=0", "seed=1", "seed=2"}


def test_failed_cells_are_left_alone_until_a_retry_is_asked_for(run, results, capsys, monkeypatch):
    words = ["-m", "method=linear,bitfit", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr("peftbench.sweep.attempt.run_cell", lambda *_: 1 / 0)
        assert run(*words) == 1
    shown = capsys.readouterr().out
    assert counts(shown) == {"done": 0, "skipped": 0, "failed": 2, "missing": 0, "not applicable": 0}
    assert "failed: linear on digits, vit_micro, seed 0: unexpected ZeroDivisionError" in shown
    assert all("ZeroDivisionError" in failure.traceback for failure in Store(results).failures())
    assert run(*words) == 1
    assert counts(capsys.readouterr().out)["failed"] == 2
    assert run(*words, "runtime.on_failed=retry") == 0
    assert counts(capsys.readouterr().out)["done"] == 2
    assert Store(results).failures() == []


def test_cells_behind_one_that_took_the_gpu_with_it_are_not_failed(run, results, capsys, monkeypatch):
    words = ["-m", "method=linear,bitfit", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr("peftbench.sweep.attempt.run_cell", lambda *_: 1 / 0)
        patch.setattr("peftbench.sweep.attempt.device_answers", lambda: False)
        assert run(*words) == 1
    shown = capsys.readouterr()
    assert "ZeroDivisionError" in shown.err and "the same command goes on with the next one" in shown.err
    assert len(Store(results).failures()) == 1
    # as it says: the failed one is left alone, the other runs
    assert run(*words) == 1
    assert {key: counts(capsys.readouterr().out)[key] for key in ("done",)} == {"done": 1}


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_logging_that_does_not_start_is_no_failure_of_a_cell(run, results, capsys, monkeypatch, flags):
    def init(**_):
        raise RuntimeError("No API key configured")

    words = [*flags, "method=linear", *TINY]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
        assert run(*words, "runtime.wandb=online") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("peftbench: runtime.wandb=online: wandb did not start") and "runtime.wandb=offline" in line
    assert Store(results).failures() == [] and list(Store(results).all()) == []
    assert run(*words) == 0


def test_not_applicable_is_told_from_failed_and_remembered(run, results, capsys):
    words = ["backbone=timm", "backbone.model=convnext_atto", "backbone.weights=none", "backbone.img_size=32"]
    assert run("-m", "method=vpt_deep", *words) == 0
    shown = capsys.readouterr().out
    assert counts(shown)["not applicable"] == 1 and "not applicable: vpt_deep" in shown
    assert run("status", "method=vpt_deep", *FAST, *words, fast=False) == 0


def test_rerun_measures_again_and_keeps_the_old_record(run, results, capsys):
    assert run("-m", "method=linear", *TINY) == 0
    (first,) = Store(results).all()
    path = Store(results).find(first.fingerprint)
    old = path.read_text()
    assert run("-m", "method=linear", *TINY, "runtime.on_existing=rerun") == 0
    assert counts(capsys.readouterr().out)["done"] == 1
    (second,) = Store(results).all()
    assert second.metrics == first.metrics and second.curve == first.curve
    assert path.read_text() != old, "times differ"
    (kept,) = (results / "work" / "replaced").iterdir()
    assert kept.read_text() == old


@pytest.mark.parametrize("content", [b"", b'{\n "schema": 1,\n "seed"', b"\xff\x00 no text"])
def test_a_damaged_record_is_not_done_and_the_rest_goes_on(run, results, capsys, content):
    assert run("-m", "method=linear", *TINY) == 0
    (record,) = Store(results).all()
    path = Store(results).find(record.fingerprint)
    path.write_bytes(content)
    words = ["method=linear,bitfit", *TINY]
    capsys.readouterr()
    assert run("-m", *words) == 1
    shown = capsys.readouterr().out
    assert counts(shown) == {"done": 1, "skipped": 0, "failed": 1, "missing": 0, "not applicable": 0}
    (line,) = [line for line in shown.splitlines() if line.startswith("failed: linear on digits")]
    assert f"{path.name} is damaged" in line and "runtime.on_existing=rerun" in line
    assert run("status", *FAST, *words, fast=False) == 1
    assert "is damaged (empty or cut off); runtime.on_existing=rerun" in capsys.readouterr().out
    assert run("method=linear", *TINY) == 1
    assert "runtime.on_existing=rerun measures the cell again" in capsys.readouterr().err
    # which it does
    assert run("-m", *words, "runtime.on_existing=rerun") == 0
    assert Store(results).get(record.fingerprint).metrics == record.metrics
    assert content in [kept.read_bytes() for kept in (results / "work" / "replaced").iterdir()]


def test_titles_name_the_words_that_differ_within_the_sweep(run, results, capsys):
    words = ["method=linear,lora", "optim.lr=0.01,1e30", "train.label_smoothing=0.1", *TINY]
    assert run("-m", *words) == 1
    shown = capsys.readouterr().out
    assert "failed: linear on digits, vit_micro, seed 0, optim.lr=1e+30: " in shown
    assert "lora on digits (vit_micro, seed 0, optim.lr=0.01): test" in shown
    assert run("status", "--by", "cell", *FAST, *words, fast=False) == 1
    shown = capsys.readouterr().out
    for method, lr in (("linear", "0.01"), ("linear", "1e+30"), ("lora", "0.01"), ("lora", "1e+30")):
        assert f"{method} on digits, vit_micro, seed 0, optim.lr={lr} " in shown
    assert "label_smoothing" not in shown and "train.epochs" not in shown
    # what a label shows is not said again
    run("status", "--by", "cell", *FAST, "method=lora", "method.rank=2,4", *TINY, fast=False)
    shown = capsys.readouterr().out
    assert "lora (rank=2) on digits, vit_micro, seed 0 " in shown and "method.rank" not in shown


def test_a_launcher_that_is_not_installed_is_said_and_nothing_is_summed_up(run, results, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert run("-m", "launcher=slurm", "method=linear", "seed=0,1", *TINY) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "peftbench: launcher=slurm needs the package submitit: pip install 'peftbench[slurm]'\n"


def test_an_existing_record_can_stop_a_sweep_before_it_starts(run, results, capsys):
    assert run("-m", "method=linear", *TINY) == 0
    assert run("-m", "method=linear,bitfit", *TINY, "runtime.on_existing=error") == 1
    assert "already recorded (runtime.on_existing=error)" in capsys.readouterr().err
    assert len(list(Store(results).all())) == 1


def test_what_cannot_apply_by_its_options_is_said_before_anybody_tries(run, results, capsys):
    words = ["method=linear,aim,mtlora", *TINY]
    assert run("status", *FAST, *words, fast=False) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^aim +0 +0 +0 +0 +1$", shown, re.MULTILINE)
    assert re.search(r"^all +0 +0 +0 +1 +2$", shown, re.MULTILINE) and "1 cell left" in shown
    assert run("status", *FAST, "method=aim", *TINY, fast=False) == 0


def test_a_cell_of_another_worker_is_missing_and_said_to_be_running(run, results, capsys):
    words = ["method=linear,bitfit", *TINY]
    assert run("status", *FAST, *words, fast=False) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^all +0 +0 +0 +2 +0$", shown, re.MULTILINE)
    assert "known once one is done" in shown
    assert run("-m", *words[:1], *TINY) == 0
    bitfit = next(record for record in Store(results).all() if record.labels["method"] == "bitfit")
    Store(results).find(bitfit.fingerprint).unlink()
    capsys.readouterr()
    with claims_of(Store(results)).take(bitfit.fingerprint):
        assert run("-m", *words) == 1
        shown = capsys.readouterr().out
        assert counts(shown.rsplit("\n", 2)[0]) == {
            "done": 0,
            "skipped": 1,
            "failed": 0,
            "missing": 1,
            "not applicable": 0,
        }
        assert "1 of the missing cells are being run by other workers" in shown
        assert run("method=bitfit", *TINY) == 1
        assert "this cell is being run by" in capsys.readouterr().err
        assert run("status", *FAST, *words, fast=False) == 1
        shown = capsys.readouterr().out
        assert re.search(r"^bitfit +0 +1 +0 +0 +0$", shown, re.MULTILINE)
        assert re.search(r"1 cell left: .* with 1 worker$", shown)


def test_a_cell_that_kills_its_workers_is_given_up(run, results, capsys):
    words = ["-m", "method=linear", *TINY]
    assert run(*words) == 0
    (record,) = Store(results).all()
    store = Store(results)
    store.find(record.fingerprint).unlink()
    for generation in (1, 2, 3):
        path = claims_of(store).path_of(record.fingerprint, generation)
        claim = claims_of(store).take(record.fingerprint) if generation == 1 else None
        if claim is not None:
            owner = json.loads(path.read_text()) | {"process": "1@1"}
        path.write_text(json.dumps(owner))
    assert run(*words) == 1
    assert "its worker died 3 times" in capsys.readouterr().out


def test_progress_tells_cell_and_eta_from_the_first_cell_on(run, results, capsys, monkeypatch):
    monkeypatch.setattr("peftbench.foundation.progress.FIRST_LINE_SECONDS", -1.0)
    assert run("-m", "method=bitfit", "seed=0,1", *TINY, "train.epochs=2", "runtime.progress=true") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cell ")]
    assert re.match(r"cell 1/2, ETA not known yet: bitfit on digits", lines[0])
    assert re.match(r"cell 1/2, ETA \d+ .*: bitfit on digits.*, epoch 1/2$", lines[1])
    assert any(re.match(r"cell 2/2, ETA \d+ .*seed 1", line) for line in lines[2:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+suite=vtabb"], "did you mean 'vtab'"),
        (["method=lora", "hydra/launcher=joblib"], "choose launcher=local, joblib, slurm or ray"),
        (["launcher=local,joblib"], "a sweep has one launcher"),
        (["launcher=joblib", "launcher.num_workers=-1"], "launcher.num_workers must be at least 0"),
        (["method=lora,ssf", "method.rank=0"], "method.rank must be at least 1, got 0"),
    ],
)
def test_wrong_words_stop_a_sweep_before_it_starts(run, results, capsys, words, message):
    assert run("-m", *words) == 2
    assert message in capsys.readouterr().err
    assert not (results / "work").exists()


def test_absent_data_are_named_and_the_rest_runs(run, results, capsys, tmp_path):
    words = ["method=linear", "dataset=digits,vtab/dtd", "seed=0"]
    assert run("-m", *FAST, *words, *TINY, fast=False) == 1
    shown = capsys.readouterr().out
    assert re.search(r"1 cell cannot be planned:\n  vtab/dtd: .*dataset\.root", shown)
    assert counts(shown)["failed"] == 1
    assert counts(shown)["done"] == 1


@pytest.mark.thorough
def test_offline_logging_of_a_sweep_leaves_one_run_a_cell_and_changes_no_number(run, results, tmp_path):
    pytest.importorskip("wandb")
    words = ["-m", "method=linear,bitfit", *TINY]
    assert run(*words, "runtime.wandb=offline") == 0
    logged = list((results / "work" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logged) == 2 and all(path.stat().st_size > 0 for path in logged)
    plain = tmp_path / "plain"
    assert run(*words, f"runtime.results={plain}") == 0
    metrics = [{r.fingerprint: (r.metrics, r.curve) for r in Store(root).all()} for root in (results, plain)]
    assert metrics[0] == metrics[1]


def test_joblib_workers_share_a_grid(run, results, capsys):
    words = ["launcher=joblib", "launcher.num_workers=2", "launcher.threads=1"]
    assert run("-m", "method=linear", "seed=range(4)", *TINY, *words) == 0
    assert counts(capsys.readouterr().out)["done"] == 4
    records = list(Store(results).all())
    assert len(records) == 4
    assert {record.provenance["machine"]["threads"] for record in records} == {1}
