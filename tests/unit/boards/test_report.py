"""The HTML report: whole in one file, and the Pareto front."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest

from peftbench.boards import report
from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.pareto import cost, front, points
from peftbench.cli.commands.leaderboard import main
from peftbench.foundation.errors import MissingInput
from peftbench.records.collect import collect
from peftbench.records.packed import write_pack
from peftbench.records.store import Store
from tests.record_factory import make_record

pytest.importorskip("plotly")
pytest.importorskip("itables")

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


def test_the_file_holds_all_it_needs(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "x.html", leaderboard(collect(RECORDS)), RECORDS)
    html = path.read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", html)
    lines = gzip.decompress(base64.b64decode(script(html, "records"))).decode().splitlines()
    assert {json.loads(line)["fingerprint"] for line in lines} == {record.fingerprint for record in RECORDS}
    [table] = json.loads(script(html, "data"))
    assert [row["method"] for row in table["rows"]] == ["lora", "full", "linear"]
    # each number of a data set names its records, by seed
    named = set(re.findall(r'data-records="([0-9a-f ]+)"', html))
    assert {f"{RECORDS[0].fingerprint} {RECORDS[1].fingerprint}"} <= named


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tables = leaderboard(collect(RECORDS))
    first = report.write_report(tmp_path / "a.html", tables, RECORDS).read_bytes()
    assert report.write_report(tmp_path / "b.html", tables, RECORDS[::-1]).read_bytes() == first


def test_labels_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    evil = make_record(method="</script><script>alert(1)</script>")
    html = report.write_report(tmp_path / "x.html", leaderboard(collect([evil])), [evil]).read_text()
    assert "<script>alert(1)" not in html


def test_beyond_the_limit_numbers_link_to_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    for record in RECORDS[1:]:
        store.put(record)
    write_pack(store.records_folder / "suite.jsonl.gz", RECORDS[:1])
    monkeypatch.setattr("peftbench.cli.commands.leaderboard.MOST_EMBEDDED", 3)
    assert main(["--results", str(tmp_path)]) == 0
    html = (tmp_path / "leaderboard" / "leaderboard.html").read_text()
    links = json.loads(script(html, "links"))
    assert set(links) == {record.fingerprint for record in RECORDS}
    assert all((tmp_path / "leaderboard" / link).is_file() for link in links.values())
    assert [links[RECORDS[0].fingerprint]] == [link for link in links.values() if link.endswith("/suite.jsonl.gz")]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("importlib.import_module", absent)
    assert not report.available()
    with pytest.raises(MissingInput, match=r"pip install 'peftbench\[report\]'"):
        report.write_report(tmp_path / "x.html", [], [])


def test_the_front_by_hand() -> None:
    # (cost, accuracy): 1 is beaten by 3 (same cost), 2 by 0, 5 equals 4
    assert front([(10.0, 0.5), (20.0, 0.6), (30.0, 0.4), (20.0, 0.7), (40.0, 0.9), (40.0, 0.9)]) == [0, 3, 4]
    assert front([]) == []


def test_costs_include_the_head_and_leave_out_what_is_unknown() -> None:
    [table] = leaderboard(collect([*RECORDS, make_record(method="half", dataset="dtd")]))
    assert [(row.method, value) for row, value, _ in points(table, "trainable")] == [
        ("lora", 376_900),
        ("full", 85_875_556),
        ("linear", 76_900),
    ]
    [unknown] = leaderboard(collect([make_record(memory_bytes=None)]))[0].rows
    assert cost(unknown, "memory") is None
