"""Commands that run no cell do not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from peftbench.cli.main import main
sys.argv = ["peftbench", *sys.argv[1:]]
try:
    code = main()
except SystemExit as end:
    code = end.code
heavy = sorted({"torch", "timm", "torchvision", "pandas", *os.environ.get("HEAVY", "").split()} & set(sys.modules))
print("heavy:", *heavy, "code:", code)
"""
SWEEP = ["method=linear,lora,vpt", "seed=0,1"]


def said(*words: str, folder: Path) -> str:
    command = [sys.executable, "-c", CODE, *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["status", *SWEEP, "hparams=default"],
        ["status", "+suite=micro", "method=all", "objective=none,gist"],
        ["data", "list"],
        ["-m", *SWEEP, "--dry-run"],
        ["--help"],
        ["--help", "options", "method=lora"],
        ["method=lora", "method.rank=0"],
    ],
    ids=" ".join,
)
def test_a_command_that_runs_nothing_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    assert "heavy: code:" in said(*words, folder=tmp_path)


def test_the_list_of_data_sets_waits_for_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAVY", "hydra omegaconf rich PIL")
    assert "heavy: code: 0" in said("data", "list", folder=tmp_path)


def test_a_plan_imports_the_data_sets_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = "peftbench.data.sources"
    monkeypatch.setenv("HEAVY", f"{sources}.digits {sources}.coco_files {sources}.named_shapes PIL tabulate")
    assert f"heavy: {sources}.digits tabulate code: 1" in said("status", "method=lora", folder=tmp_path)
