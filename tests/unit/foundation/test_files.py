"""Trying ahead of long work whether a file can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.foundation.errors import RecordError
from peftbench.foundation.files import check_writable, replace_text


def test_a_try_leaves_neither_file_nor_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "a/b/model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_try_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    replace_text(tmp_path / "full/card.md", "text")
    for name in ("empty/x", "full/card.md", "full/deeper/x"):
        check_writable(tmp_path / name)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "empty",
        "full",
        "full/card.md",
    ]
    assert (tmp_path / "full/card.md").read_text() == "text"


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file/below/x", "."):
        with pytest.raises(RecordError, match="cannot write"):
            check_writable(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
