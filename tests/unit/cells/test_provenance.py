"""Where a record comes from is said rightly."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from peftbench.cells import provenance
from peftbench.cells.provenance import command_words, git_state, versions
from peftbench.foundation.plugins import VARIABLE
from tests.conftest import REPOSITORY


def test_a_checkout_names_its_commit() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert git_state()[0] == head.stdout.strip()


def test_a_command_is_kept_without_what_holds_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").mkdir()
    places = [
        f"dataset.root={tmp_path}",
        f"dataset.root='{tmp_path}/my photos'",
        "dataset.path=/a=b",
        "dataset.root=scenes",
    ]
    kept = ["-m", "dataset=scenes", "method.rank=4", "task.tasks=[depth,normals]"]
    assert command_words([*places, *kept, f"{tmp_path}/kernel.json"]) == kept


def test_a_plug_in_is_named_with_the_digest_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "method.py").write_text("a = 1\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    first = versions()["plug-in mine"]
    (tmp_path / "mine" / "method.py").write_text("a = 2\n")
    assert versions()["plug-in mine"] != first
    monkeypatch.delenv(VARIABLE)
    assert "plug-in mine" not in versions()


def test_a_processor_is_told_from_others_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"model name": "AMD EPYC", "cpu family": "25", "model\t": "17"}
    monkeypatch.setattr(provenance, "cpuinfo", facts.get)
    assert provenance.machine(torch.device("cpu"))["cpu"] == "AMD EPYC (family 25, model 17)"
    monkeypatch.setattr(provenance, "cpuinfo", {"model name": "Neoverse-V2"}.get)
    assert provenance.machine(torch.device("cpu"))["cpu"] == "Neoverse-V2"
