"""The results folder has two spellings: a command takes what it can of both, and else names its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftbench.records.store import Store
from tests.record_factory import make_record


@pytest.mark.parametrize("name", ["evaluate", "reproduce", "export"])
def test_a_record_is_found_where_either_spelling_says(command, tmp_path, monkeypatch, capsys, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    record = make_record()
    Store(tmp_path / "other").put(record)
    words = [name, record.fingerprint, *(["out.safetensors"] if name == "export" else [])]
    missing = f"no record {record.fingerprint} under"
    for place in (["runtime.results=other"], ["--results", "other"], ["--results", "other", "runtime.results=none"]):
        command(*words, *place)
        assert missing not in capsys.readouterr().err, place
    assert command(*words, "runtime.results=none") == 2
    assert f"{missing} {Path('none/records')}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "spelling"),
    [
        (["leaderboard", "runtime.results=x"], "--results DIR"),
        (["compare", "runtime.results=x"], "--results DIR"),
        (["status", "method=lora", "--results", "x"], "runtime.results=DIR"),
        (["status", "method=lora", "--results=x"], "runtime.results=DIR"),
        (["method=lora", "--results=x"], "runtime.results=DIR"),
        (["-m", "method=lora,ssf", "--results=x"], "runtime.results=DIR"),
    ],
)
def test_a_refusal_names_the_spelling_that_works(command, tmp_path, monkeypatch, capsys, words, spelling) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    assert f"the results folder is written {spelling}" in capsys.readouterr().err
