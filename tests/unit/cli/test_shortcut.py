"""The note that answers repeated words is used only while nothing has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peftbench.cli import shortcut

WORDS = ["method=lora", "seed=1"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    record, data = tmp_path / "record.json", tmp_path / "train.txt"
    record.write_text("{}")
    data.write_text("a 0\n")
    shortcut.note_finished(WORDS, tmp_path / "cache", record, [data], {"accuracy": 0.5})
    return record, data


def test_the_same_words_find_the_record(files, tmp_path):
    assert shortcut.finished_record(WORDS, tmp_path / "cache") == (files[0], {"accuracy": 0.5})


def test_other_words_another_folder_or_environment_do_not(files, tmp_path, monkeypatch):
    assert shortcut.finished_record([*WORDS, "train.epochs=2"], tmp_path / "cache") is None
    with monkeypatch.context() as patch:
        patch.setenv("PEFTBENCH_SOMETHING", "1")
        assert shortcut.finished_record(WORDS, tmp_path / "cache") is None
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        assert shortcut.finished_record(WORDS, tmp_path / "cache") is None
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is not None


def test_a_changed_input_or_a_removed_record_ends_it(files, tmp_path):
    record, data = files
    data.write_text("a 0\nb 1\n")
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None
    shortcut.note_finished(WORDS, tmp_path / "cache", record, [data], {})
    record.unlink()
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


def test_changed_source_files_end_it(files, tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "configs").mkdir(parents=True)
    module = package / "code.py"
    module.write_text("a = 1\n")
    monkeypatch.setattr(shortcut, "PACKAGE", package)
    record, data = files
    shortcut.note_finished(WORDS, tmp_path / "cache", record, [data], {})
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is not None
    os.utime(module, ns=(1, 1))
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


def test_a_damaged_note_is_ignored_and_a_closed_folder_no_failure(files, tmp_path):
    shortcut.note_file(WORDS, tmp_path / "cache").write_text("{")
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    shortcut.note_finished(WORDS, blocked, files[0], [], {})
    assert shortcut.finished_record(WORDS, blocked) is None
