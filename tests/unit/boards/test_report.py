"""The page of a leaderboard: whole in one file, as a site, and the costs it draws."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest

from peftbench.boards import report
from peftbench.boards.costs import cost
from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.page import page_tables
from peftbench.cli.commands.leaderboard import main
from peftbench.records.collect import collect
from peftbench.records.packed import write_pack
from peftbench.records.store import Store
from tests.record_factory import make_record

FAMILIES = {"lora": "reparametrisation", "linear": "selection"}
RECORDS = [
    make_record(method=method, dataset=dataset, seed=seed, accuracy=accuracy + seed / 100, method_params=params)
    for method, accuracy, params in (("lora", 0.8, 300_000), ("full", 0.7, 85_798_656), ("linear", 0.5, 0))
    for dataset in ("dtd", "eurosat")
    for seed in range(2)
]


def script(html: str, name: str) -> str:
    found = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return found[1]


def packed(html: str, name: str) -> list[str]:
    lines = gzip.decompress(base64.b64decode(script(html, f"records-{name}"))).decode().splitlines()
    return [json.loads(line)["fingerprint"] for line in lines]


def test_the_file_holds_all_it_needs(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "x.html", leaderboard(collect(RECORDS)), RECORDS, FAMILIES)
    html = path.read_text()
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', html)
    assert "{{" not in html
    # the records behind each data set, by position of table and data set
    for part, dataset in (("0-0", "dtd"), ("0-1", "eurosat")):
        of_dataset = [record.fingerprint for record in RECORDS if record.labels["dataset"] == dataset]
        assert sorted(packed(html, part)) == sorted(of_dataset)
    [table] = json.loads(script(html, "data"))["tables"]
    assert [row["method"] for row in table["rows"]] == ["lora", "full", "linear"]
    assert [row["family"] for row in table["rows"]] == ["reparametrisation", "other", "selection"]
    # each number of a data set names its records, by seed
    assert table["rows"][0]["records"]["dtd"] == [RECORDS[0].fingerprint, RECORDS[1].fingerprint]


def test_columns_put_data_sets_before_costs_and_know_what_is_behind_a_mean(tmp_path: Path) -> None:
    [table] = page_tables(leaderboard(collect(RECORDS)), FAMILIES)
    kinds = [column["kind"] for column in table["columns"]]
    assert kinds == sorted(kinds, key=["mean", "standing", "task", "cost"].index)
    behind = {column["name"]: column["tasks"] for column in table["columns"]}
    assert behind["natural mean"] == ["dtd"]
    assert sorted(behind["flat mean"]) == ["dtd", "eurosat"]
    assert behind["params (M)"] == []
    row = table["rows"][0]
    index = [column["name"] for column in table["columns"]].index("params (M)")
    assert (row["texts"][index], row["orders"][index]) == ("0.300", 0.3)
    assert row["scores"]["dtd"]["mean"] == pytest.approx(80.5)


def test_a_site_keeps_its_records_beside_the_page(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in RECORDS:
        store.put(record)
    site = tmp_path / "site"
    # its own page of another time is replaced
    for _ in range(2):
        assert main(["--results", str(tmp_path), "--site", str(site)]) == 0
    html = (site / "index.html").read_text()
    assert json.loads(script(html, "data"))["files"] is True
    assert "records-0-0" not in html
    found = [gzip.decompress(path.read_bytes()).splitlines() for path in sorted((site / "records").iterdir())]
    names = {json.loads(line)["fingerprint"] for lines in found for line in lines}
    assert names == {record.fingerprint for record in RECORDS}
    assert {path.name for path in site.iterdir()} >= {
        ".nojekyll",
        "leaderboard.csv",
        "leaderboard.tex",
        "leaderboard.md",
    }


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tables = leaderboard(collect(RECORDS))
    first = report.write_report(tmp_path / "a.html", tables, RECORDS, FAMILIES).read_bytes()
    assert report.write_report(tmp_path / "b.html", tables, RECORDS[::-1], FAMILIES).read_bytes() == first


def test_labels_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = make_record(method="</script><script>alert(1)</script> {{ css }}")
    html = report.write_report(tmp_path / "x.html", leaderboard(collect([evil])), [evil], {}).read_text()
    assert "<script>alert(1)" not in html
    assert "{{ css }}" in script(html, "data")


def test_beyond_the_limit_numbers_link_to_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    for record in RECORDS[1:]:
        store.put(record)
    write_pack(store.records_folder / "suite.jsonl.gz", RECORDS[:1])
    monkeypatch.setattr("peftbench.cli.commands.leaderboard.MOST_EMBEDDED", 3)
    assert main(["--results", str(tmp_path)]) == 0
    html = (tmp_path / "work" / "leaderboard" / "leaderboard.html").read_text()
    links = json.loads(script(html, "data"))["links"]
    assert set(links) == {record.fingerprint for record in RECORDS}
    assert all((tmp_path / "work" / "leaderboard" / link).is_file() for link in links.values())
    assert [links[RECORDS[0].fingerprint]] == [link for link in links.values() if link.endswith("/suite.jsonl.gz")]


def test_costs_include_the_head_and_leave_out_what_is_unknown() -> None:
    [table] = leaderboard(collect([*RECORDS, make_record(method="half", dataset="dtd", speed=None)]))
    assert {row.method: cost(row, "trainable") for row in table.rows} == {
        "lora": 376_900,
        "full": 85_875_556,
        "linear": 76_900,
        "half": 366_900,
    }
    # 100 epochs of 1,000 images at 100 images a second
    assert {row.method: cost(row, "minutes") for row in table.rows}["lora"] == pytest.approx(1000 / 60)
    assert {row.method: cost(row, "minutes") for row in table.rows}["half"] is None
    [nothing] = leaderboard(collect([make_record(method_params=0, head_params=0, speed=None)]))[0].rows
    assert (cost(nothing, "trainable"), cost(nothing, "minutes")) == (0, 0), "what trains nothing costs no training"
    [unknown] = leaderboard(collect([make_record(memory_bytes=None)]))[0].rows
    assert cost(unknown, "memory") is None
