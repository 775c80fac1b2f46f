"""What stands beside a leaderboard: which rows, which reference, and numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.reliability_tables import Reliability, reliability, write
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from tests.boards import cells

LORA = {"dtd": [0.5, 0.6], "eurosat": [0.7, 0.8]}
DORA = {"dtd": [0.55, 0.65], "eurosat": [0.6, 0.9]}


def of(records: list[RunRecord], robustness: dict[str, float] | None = None) -> list[Reliability]:
    rows = collect(records)
    return reliability(leaderboard(rows), rows, robustness)


def test_rows_are_compared_with_lora_by_their_runs() -> None:
    (found,) = of([*cells("lora", LORA), *cells("dora", DORA)])
    assert found.reference == "lora"
    by_name = {line.method: line for line in found.lines}
    # of four scores the middle two
    assert by_name["lora"].iqm.value == pytest.approx((0.6 + 0.7) / 2)
    assert by_name["dora"].iqm.value == pytest.approx((0.6 + 0.65) / 2)
    assert [line.method for line in found.lines] == ["lora", "dora"] and by_name["lora"].improvement is None
    # dtd: 3 of 4 pairs; eurosat: 2 of 4
    over = by_name["dora"].improvement
    assert over is not None and over.value == pytest.approx((0.75 + 0.5) / 2)
    assert over.low is not None and over.high is not None and over.low <= over.value <= over.high
    assert found.pairs[1][0] == over.value and found.pairs[0][0] == 0.5
    above = dict(zip(found.thresholds, by_name["lora"].profile, strict=True))
    assert (above[0.5], above[0.55], above[0.8]) == (0.75, 0.75, 0.0)


def test_a_row_that_lacks_a_data_set_or_a_seed_has_no_line() -> None:
    uneven = {"dtd": [0.5, 0.6], "eurosat": [0.7]}
    (found,) = of([*cells("lora", LORA), *cells("ssf", DORA), *cells("vpt", uneven), *cells("gps", {"dtd": [0.1]})])
    assert {line.method for line in found.lines} == {"lora", "ssf"}


def test_a_tuned_variant_stands_beside_the_defaults_at_its_own_rate() -> None:
    tuned = {"tuning": {"label": "tuned: random, 16 trials"}, "options": {"optim": {"lr": 0.002}}}
    found = of([*cells("lora", LORA), *cells("dora", DORA, **tuned)])
    beside = next(one for one in found if "paper defaults" in one.title or "own options" in one.title)
    names = [line.method for line in beside.lines]
    assert "lora" in names and any(name.startswith("dora (tuned: random, 16 trials") for name in names)
    assert any("lr 0.002" in name for name in names)


def test_what_records_know_of_calibration_and_robustness_is_averaged_over_data_sets(tmp_path: Path) -> None:
    records = cells("lora", LORA)
    for record, ece in zip(records, (0.1, 0.2, 0.3, 0.4), strict=True):
        record.metrics["test"]["ece"] = ece
    robustness = {record.fingerprint: 0.25 for record in records[1:]}
    (found,) = of(records, robustness)
    assert found.lines[0].ece == pytest.approx(0.25) and found.lines[0].corrupted is None
    (found,) = of(records, robustness | {records[0].fingerprint: 0.65})
    assert found.lines[0].corrupted == pytest.approx(((0.65 + 0.25) / 2 + 0.25) / 2)
    assert [path.name for path in write([found], tmp_path)] == ["reliability.csv", "reliability.json", "reliability.md"]
    (table,) = json.loads((tmp_path / "reliability.json").read_text())["tables"]
    assert table["rows"][0]["iqm"] == pytest.approx(65) and table["rows"][0]["corrupted"] == pytest.approx(35)
    assert "| lora " in (tmp_path / "reliability.md").read_text()
