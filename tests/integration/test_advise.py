"""From a folder of photos to an exported model, a page and predictions of new files, with the README's words alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import peftbench
from peftbench.records.store import Store
from tests.conftest import REPOSITORY

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety pictures in three colours, noisy."""
    root = tmp_path_factory.mktemp("photos") / "colours"
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(30):
            pixels = np.clip(np.array(colour) + generator.normal(0, 60, (24, 36, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


def command(*words: str, cwd: Path) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PEFTBENCH_CACHE": str(cwd / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "peftbench", *words],
        cwd=cwd,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a test run in the background ignores interrupts, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(*words: str, cwd: Path) -> str:
    process = command(*words, cwd=cwd)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out


def test_interrupted_and_resumed_it_ends_in_a_model_that_predicts(photos: Path, tmp_path: Path) -> None:
    words = ("advise", "dataset=folder", f"dataset.root={photos}", "budget=1s")
    first = command(*words, cwd=tmp_path)
    assert first.stdout is not None
    for line in first.stdout:
        if "rung 1, 1/4" in line:
            first.send_signal(signal.SIGINT)
            break
    said = first.stdout.read()
    assert first.wait(timeout=120) == 130 and "best so far" in said and "test images were not read" in said
    assert (tmp_path / "advice" / "colours" / "model.safetensors").is_file()
    card = (tmp_path / "advice" / "colours" / "model.md").read_text()
    assert "| accuracy, test split | not measured |" in card and "| accuracy, validation split | " in card
    before = {record.fingerprint for record in Store(tmp_path / "results").all()}
    assert before and all(record.metrics["test"] is None for record in Store(tmp_path / "results").all())

    said = run(*words, cwd=tmp_path)
    records = {record.fingerprint: record for record in Store(tmp_path / "results").all()}
    assert before < records.keys(), "what was done was found again"
    assert said.count("%, done before") == len(before) and "  done before: record" not in said
    facts = json.loads((tmp_path / "advice" / "colours" / "advice.json").read_text())
    [tested] = [record for record in records.values() if record.metrics["test"] is not None]
    assert facts["record"] == tested.fingerprint and tested.metrics["test"]["accuracy"] == facts["accuracy"]
    trials = facts["trials"]
    assert {trial["epochs"] for trial in trials if trial["rung"] == 1} == {2} and len(trials) >= 2
    assert all(trial["record"] in records for trial in trials)
    best = max(trial["val_accuracy"] for trial in trials if trial["rung"] == max(t["rung"] for t in trials))
    assert best == next(t["val_accuracy"] for t in reversed(trials) if t["method"] == facts["method"])
    assert "90 images in 3 classes: 57 train, 15 choose, 18 are kept" in said
    assert "vit_micro is a small one" in said and f"Take {facts['method']}" in said

    page = (tmp_path / "advice" / "colours" / "advice.html").read_text()
    for title in ("Confusion", "Worst mistakes", "Calibration", "The race"):
        assert f"<h2>{title}</h2>" in page

    model = tmp_path / "advice" / "colours" / "model.safetensors"
    listed = list(csv.DictReader(run("predict", str(model), str(photos), cwd=tmp_path).splitlines()))
    assert len(listed) == 90 and set(listed[0]) == {"file", "class", "probability"}
    right = [row["class"] == Path(row["file"]).parent.name for row in listed]
    assert np.mean(right) > 0.6
    [found] = peftbench.predictor(model)(photos / "red" / "00.png")
    [row] = [row for row in listed if row["file"].endswith("red/00.png")]
    assert (found.label, f"{found.probability:.4f}") == (row["class"], row["probability"])
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-5)

    from_record = run("predict", tested.fingerprint, str(photos / "red"), f"dataset.root={photos}", cwd=tmp_path)
    assert from_record.splitlines()[1:] == [
        f"{row['file']},{row['class']},{row['probability']}" for row in listed if "/red/" in row["file"]
    ]
