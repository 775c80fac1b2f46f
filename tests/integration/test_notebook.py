"""The notebooks in examples/ run from top to bottom and show what they promise."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(shutil.copy(REPOSITORY / "examples" / "quickstart.ipynb", tmp_path), as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    assert "<h4>vit_micro" in pages and "<td>lora</td>" in pages, "the leaderboard is shown as a table"
    plain, difference = printed.split()[-2:]
    assert plain == "VisionTransformer" and float(difference) < 1e-4
    assert len(list((tmp_path / "results" / "notebook" / "records").rglob("*.json"))) == 3
