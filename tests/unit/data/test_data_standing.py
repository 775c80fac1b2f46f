"""Whether a dataset is here: one answer for the command and for Python, without reading what is there."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import peftbench
from peftbench.cli.commands import data as data_command
from peftbench.config.datasets import shipped_dataset
from peftbench.data.base import DatasetSpec, Source
from peftbench.data.standing import standing
from peftbench.foundation.errors import BadInput, MissingInput
from tests.conftest import REPOSITORY


@dataclass(frozen=True)
class Kept(DatasetSpec):
    """Data whose bytes may not be hashed only to be listed."""

    folder: Any = None
    problem: Any = None
    megabytes: int | None = None
    label = group = "kept"

    def revision(self) -> str:
        pytest.fail("all images were read")

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def places(self) -> list[Path]:
        return [] if self.folder is None else [self.folder]

    @property
    def download_megabytes(self) -> int | None:
        return self.megabytes

    def open(self) -> Source:
        raise NotImplementedError


def test_the_state_is_told_without_reading_the_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(7))
    assert standing(Kept(folder=tmp_path)).state == "ready"
    assert standing(Kept(folder=tmp_path), sized=True).num_bytes == 7
    assert standing(Kept(folder=tmp_path, megabytes=3)).state == "ready"
    assert standing(Kept(megabytes=3)).state == "download"
    assert standing(Kept()).state == "ready"
    for error, state in ((MissingInput("no"), "missing"), (BadInput("torn"), "damaged")):
        found = standing(Kept(problem=error))
        assert (found.state, found.problem) == (state, error)


def test_python_and_the_command_agree_and_read_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    kind, _ = shipped_dataset("folder")
    monkeypatch.setattr(kind, "revision", lambda self: pytest.fail("all images were read"))
    monkeypatch.setattr(kind, "check", lambda self: None)
    table = peftbench.datasets()
    assert data_command.main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert {line[0]: line[2] for line in lines[1:]} == dict(zip(table["dataset"], table["state"], strict=True))


def test_data_list_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from peftbench.cli.main import main; sys.argv[1:] = ['data', 'list']; main()"
    code += "; print('torch' in sys.modules)"
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert found.stdout.splitlines()[-1] == "False"
