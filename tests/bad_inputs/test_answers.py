"""Every bad input of the tables gets its exit code and one clear answer, never a traceback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftbench.cli.main import main
from tests.bad_inputs.generated import generated
from tests.bad_inputs.materials import Materials
from tests.bad_inputs.table import TABLES, Case, faults, read
from tests.conftest import REPOSITORY

CASES = [*(case for name in TABLES for case in read(name)), *generated()]
# those that a process of their own answers as well
ALONE = CASES[::160]


@pytest.fixture(scope="module")
def materials(tmp_path_factory) -> Materials:
    return Materials(tmp_path_factory.mktemp("materials"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    # a library keeps the stderr of an earlier case, which is closed by now; a process of its own has one alone
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judge(case: Case, materials: Materials, tally, answered) -> None:
    """Counts the case and fails when its answer is not good. `answered`: words -> exit code and answer."""
    words, wanted = case.filled(materials.fill)
    tally["tried"] += case.num_inputs
    code, answer = answered(words)
    found = faults(case, wanted, code, answer)
    assert not found, f"{'; '.join(found)}\n{' '.join(words)[:300]}\n{answer[-3000:]}"
    tally["well"] += case.num_inputs


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_bad_input_is_answered(case, materials, folder, tally, monkeypatch, capsys):
    def answered(words: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["peftbench", *words])
        code = main()
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    judge(case, materials, tally, answered)


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.title)
def test_a_bad_input_is_answered_by_a_process_of_its_own(case, folder, tmp_path_factory):
    # materials of its own: a command may change what it is pointed to, so that a second answer would be another
    words, wanted = case.filled(Materials(tmp_path_factory.mktemp("alone")).fill)
    result = subprocess.run(
        [sys.executable, "-m", "peftbench", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    found = faults(case, wanted, result.returncode, result.stdout + result.stderr)
    assert not found, f"{'; '.join(found)}\n{result.stdout}{result.stderr}"
