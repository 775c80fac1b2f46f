"""A record is found by fingerprint or file; what is wrong with one, or with its inputs, is said whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftbench.cells.restore import find_record, record_config
from peftbench.config.compose import Trees
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.records.store import Store
from tests.record_factory import make_record


@pytest.mark.parametrize("damage", ["cut", "altered"])
def test_a_damaged_record_is_told_from_none(tmp_path: Path, damage: str) -> None:
    store, record = Store(tmp_path), make_record()
    path = store.put(record)
    text = path.read_text()
    path.write_text(text[:200] if damage == "cut" else text.replace('"seed": 0', '"seed": 5', 1))
    reason = {"cut": "not valid JSON", "altered": "the identity gives"}[damage]
    for named in (record.fingerprint, str(path)):
        with pytest.raises(BadInput) as caught:
            find_record(named, tmp_path)
        assert str(path) in str(caught.value) and reason in str(caught.value) and "..." not in str(caught.value)


def test_no_record_is_said_with_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"0123456789abcdef.*a fingerprint under --results"):
        find_record("0123456789abcdef", tmp_path)


@pytest.mark.parametrize(
    ("words", "asked_for"),
    [
        (["dataset=folder"], "set dataset.root=<folder of class folders>"),
        (["dataset=vtab/dtd", "dataset.root=nowhere"], "no task folder in"),
    ],
)
def test_a_record_asks_for_its_own_data_and_advises_no_other(
    words: list[str], asked_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    record: Any = SimpleNamespace(config=Trees().of(words), provenance={"machine": {}})
    with pytest.raises(MissingInput) as caught:
        record_config(record, [])
    assert asked_for in str(caught.value)
    assert "needs no files" not in str(caught.value)
