"""Running the command line in this process, on a tiny model and tiny data, so that a cell takes a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.cli.main import main

# 16 px, a quarter of the tokens: what is tested is the line, not the accuracy
FAST = ["train=smoke", "backbone.img_size=16", "train.batch_size=250", "dataset=digits", "runtime.progress=false"]

# four images of each class, and validation in every epoch
FEW = (
    "dataset=digits",
    "backbone.img_size=16",
    "protocol=fewshot",
    "protocol.shots=4",
    "protocol.val_split=fewshot_val",
    "train=smoke",
    "train.batch_size=16",
    "runtime.progress=false",
)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results folder, and a cache of this test's own."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


@pytest.fixture
def run(results: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`run("method=lora")` is `python -m peftbench method=lora` on fast settings; returns the exit code."""

    def call(*words: str, fast: bool = True) -> int:
        monkeypatch.setattr(sys, "argv", ["peftbench", *(FAST if fast else []), *words])
        return main()

    return call
