"""Files with the robustness of records: written, read, averaged, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench.foundation.errors import RecordError
from peftbench.records.robustness import Robustness, mean_scores, put, read

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
    ],
)
def test_what_is_none_is_refused_with_its_name(tmp_path: Path, values: object) -> None:
    path = put(tmp_path, ONE)
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match=f"{path.name}: not the robustness of a record"):
        read(path)
