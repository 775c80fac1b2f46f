"""The note that answers repeated words is used only while nothing has changed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from peftbench.cli import shortcut
from tests.own_images import swap_bytes

WORDS = ["method=lora", "seed=1"]
# nanoseconds: long enough after the files were made that they count as settled
LATER = 10_000_000_000


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    record, data = tmp_path / "record.json", tmp_path / "train.txt"
    record.write_text("{}")
    data.write_text("a 0\n")
    note(tmp_path, record, [data], {"accuracy": 0.5})
    return record, data


def note(tmp_path: Path, record: Path, inputs: list[Path], summary: dict, words=WORDS, after: int = LATER) -> None:
    shortcut.note_finished(words, tmp_path / "cache", record, inputs, summary, time.time_ns() + after)


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
    note(tmp_path, record, [data], {})
    record.unlink()
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


def test_changed_source_files_end_it(files, tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "configs").mkdir(parents=True)
    module = package / "code.py"
    module.write_text("a = 1\n")
    monkeypatch.setattr(shortcut, "PACKAGE", package)
    record, data = files
    note(tmp_path, record, [data], {})
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is not None
    os.utime(module, ns=(1, 1))
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


def test_a_damaged_note_is_ignored_and_a_closed_folder_no_failure(files, tmp_path):
    shortcut.note_file(WORDS, tmp_path / "cache").write_text("{")
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    shortcut.note_finished(WORDS, blocked, files[0], [], {}, 0)
    assert shortcut.finished_record(WORDS, blocked) is None


def test_an_image_that_changed_under_its_name_size_and_time_ends_it(files, tmp_path):
    image = tmp_path / "images" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"one")
    note(tmp_path, files[0], [image.parent, image], {})
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is not None
    swap_bytes(image)
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None
    note(tmp_path, files[0], [image.parent, image], {})
    (image.parent / "b.png").write_bytes(b"two")
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


def test_nothing_is_noted_where_an_input_may_have_changed_since_the_cell_was_planned(tmp_path):
    record, data = tmp_path / "record.json", tmp_path / "train.txt"
    record.write_text("{}")
    data.write_text("a 0\n")
    note(tmp_path, record, [data], {}, after=0)
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


def test_a_file_that_was_not_there_ends_it_when_it_appears(files, tmp_path):
    absent = tmp_path / "val.txt"
    note(tmp_path, files[0], [files[1], absent], {})
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is not None
    absent.write_text("b 1\n")
    assert shortcut.finished_record(WORDS, tmp_path / "cache") is None


@pytest.mark.parametrize("word", ["optim.lr=${oc.env:RATE}", "hydra.searchpath=[file://configs]"])
def test_words_that_may_mean_something_else_tomorrow_are_not_noted(files, tmp_path, word):
    note(tmp_path, files[0], [], {}, words=[word])
    assert shortcut.finished_record([word], tmp_path / "cache") is None
