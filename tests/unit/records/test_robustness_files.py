"""Files with the robustness of records: written, read, averaged, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench.foundation.errors import RecordError
from peftbench.records.robustness import Robustness, add, left_out, mean_scores, path_of, put, read
from peftbench.records.store import Store

ONE = Robustness("0" * 16, "accuracy", 0.9, {"contrast": {"1": 0.8, "5": 0.2}, "fog": {"1": 0.7}})


def test_it_comes_back_and_its_mean_is_over_corruptions(tmp_path: Path) -> None:
    assert read(put(tmp_path, ONE)) == ONE
    assert mean_scores(tmp_path) == {ONE.fingerprint: pytest.approx((0.5 + 0.7) / 2)}


def test_means_over_other_corruptions_are_left_out(tmp_path: Path) -> None:
    other = {"contrast": {"1": 0.8}}
    for number in (1, 2):
        put(tmp_path, Robustness(str(number) * 16, "accuracy", 0.9, other))
    put(tmp_path, ONE)
    assert mean_scores(tmp_path) == {"1" * 16: 0.8, "2" * 16: 0.8}


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"fingerprint": "0" * 16},
        vars(ONE) | {"clean": "high"},
        vars(ONE) | {"corrupted": {}},
        vars(ONE) | {"corrupted": {"fog": {}}},
        vars(ONE) | {"corrupted": {"fog": {"1": None}}},
        vars(ONE) | {"corrupted": 3},
        vars(ONE) | {"fingerprint": "1" * 16},
        vars(ONE) | {"more": 1},
        vars(ONE) | {"strengths": "64"},
    ],
)
def test_what_is_none_is_refused_with_its_name(tmp_path: Path, values: object) -> None:
    path = put(tmp_path, ONE)
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match=f"{path.name}: not the robustness of a record"):
        read(path)


def test_further_scores_join_those_that_are_there(tmp_path: Path) -> None:
    store, first = Store(tmp_path), replace(ONE, strengths=64)
    assert add(store, first, unsaid=224).held == first
    more = replace(first, corrupted={"fog": {"5": 0.3, "1": 0.6}, "snow": {"1": 0.4}})
    added = add(store, more, unsaid=224)
    expected = {"contrast": {"1": 0.8, "5": 0.2}, "fog": {"1": 0.6, "5": 0.3}, "snow": {"1": 0.4}}
    assert added.replaced == "" and added.held.corrupted == expected
    assert read(path_of(tmp_path, ONE.fingerprint)) == added.held
    assert not (tmp_path / "work" / "replaced").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clean": 0.8}, "the clean score was 0.9 before and is 0.8"),
        ({"metric": "miou"}, "measured before was accuracy, now miou"),
        ({"strengths": 224}, "strengths were those for 64 px before and are those for 224 px"),
    ],
)
def test_scores_that_cannot_stand_together_are_put_aside(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    store, first = Store(tmp_path), replace(ONE, strengths=64)
    old = add(store, first, unsaid=64).path.read_text()
    added = add(store, replace(first, **change), unsaid=64)
    (kept,) = (tmp_path / "work" / "replaced").iterdir()
    assert added.replaced == f"{reason}; the older scores were put aside as {kept}"
    assert kept.read_text() == old and read(added.path) == replace(first, **change)
    # it is no copy of a record
    assert not store.replaced_since(ONE.fingerprint, 0)


def test_a_file_of_before_strengths_were_said_is_read_and_added_to_where_they_are_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = put(tmp_path, ONE)
    assert "strengths" not in json.loads(path.read_text()) and read(path).strengths is None
    new = replace(ONE, corrupted={"snow": {"1": 0.4}}, strengths=64)
    assert add(store, new, unsaid=64).held == replace(new, corrupted={**ONE.corrupted, **new.corrupted})
    put(tmp_path, ONE)
    assert "for 224 px before" in add(store, new, unsaid=224).replaced


def test_what_is_no_robustness_is_not_replaced(tmp_path: Path) -> None:
    path = put(tmp_path, ONE)
    path.write_text("{}")
    with pytest.raises(RecordError, match="not the robustness of a record"):
        add(Store(tmp_path), ONE, unsaid=32)
    assert path.read_text() == "{}"


def test_why_tables_leave_a_record_out_is_said(tmp_path: Path) -> None:
    for number in (1, 2):
        put(tmp_path, Robustness(str(number) * 16, "accuracy", 0.9, {"snow": {"2": 0.8}, "fog": {"1": 0.7}}, 64))
    put(tmp_path, replace(ONE, strengths=64))
    assert left_out(tmp_path, "1" * 16) == ""
    assert left_out(tmp_path, ONE.fingerprint) == (
        "most files there hold other corruptions; this one lacks snow 2 and has besides contrast 1 5"
    )
    put(tmp_path, Robustness(ONE.fingerprint, "accuracy", 0.9, {"snow": {"2": 0.1}, "fog": {"1": 0.1}}))
    put(tmp_path, Robustness("3" * 16, "accuracy", 0.9, {"snow": {"2": 0.1}, "fog": {"1": 0.1}}, 224))
    assert "measure it again" in left_out(tmp_path, ONE.fingerprint)
    assert set(mean_scores(tmp_path)) == {"1" * 16, "2" * 16, "3" * 16}
