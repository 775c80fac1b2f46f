"""The command a user types: tables, files, and one clear line when something is wrong."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from peftbench.records.packed import write_pack
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.record_factory import make_record


@pytest.fixture
def main(command: Callable[..., int]) -> Callable[[list[str]], int]:
    return lambda words: command("leaderboard", *words)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    for method in ("lora", "vpt"):
        for dataset in ("dtd", "eurosat"):
            store.put(make_record(method=method, dataset=dataset))
    return tmp_path


def test_tables_are_shown_and_written(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results)]) == 0
    output = capsys.readouterr()
    assert "vit_b16, vtab1k, paper defaults" in output.out
    assert "lora" in output.out
    assert output.err == ""
    frame = pd.read_csv(results / "leaderboard" / "leaderboard.csv")
    assert frame["method"].tolist() == ["lora", "vpt"]
    assert (results / "leaderboard" / "leaderboard.md").is_file()


def test_a_pipe_is_as_wide_as_columns_says(
    main, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def widest(columns: str) -> int:
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["--results", str(results), "--no-report", "--out", str(results / "o")]) == 0
        shown = capsys.readouterr().out.splitlines()
        return max(len(line) for line in shown if not line.startswith("wrote "))

    assert widest("80") <= 80 < widest("") <= 140


def test_a_choice_does_not_replace_the_whole_leaderboard(
    main, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(results), "--method", "vpt", "--dataset", "dtd"]) == 0
    assert "lora" not in capsys.readouterr().out
    assert not (results / "leaderboard").exists()
    assert main(["--results", str(results), "--method", "vpt", "--out", str(results / "choice")]) == 0
    assert pd.read_csv(results / "choice" / "leaderboard.csv")["method"].tolist() == ["vpt"]


def test_an_unknown_name_is_answered_with_the_nearest(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results), "--method", "loar", "--backbone", "vit_b16"]) == 2
    assert capsys.readouterr().err == "peftbench: --method: no record has 'loar'; did you mean 'lora'?\n"


def test_one_of_two_sets_of_images_is_chosen_by_the_revision_that_its_column_shows(
    main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, digests = Store(tmp_path), ("a1" * 32, "b2" * 32)
    for digest, accuracy in zip(digests, (0.25, 0.75), strict=True):
        dataset = {"kind": "folder", "revision": f"files:{digest}"}
        store.put(make_record(dataset="ok", accuracy=accuracy, membership="own", options={"dataset": dataset}))
    assert main(["--results", str(tmp_path), "--no-report"]) == 0
    assert "by its membership or its revision" in " ".join(capsys.readouterr().out.split())
    for revision in (f"files:{digests[1]}", f"files:{digests[1][:12]}"):
        assert main(["--results", str(tmp_path), "--no-report", "--membership", revision]) == 0
        said = capsys.readouterr().out
        assert "75.0" in said and "25.0" not in said and "several sets" not in said
    assert main(["--results", str(tmp_path), "--membership", "files:c3"]) == 2


def test_skipped_files_are_named(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = next((results / "records").rglob("*.json")).with_name("damaged.json")
    damaged.write_text("{")
    assert main(["--results", str(results)]) == 0
    assert capsys.readouterr().err.startswith(f"skipped {damaged}: not valid JSON")


@pytest.mark.parametrize("options", [[], ["--method", "lora"]])
def test_no_records_is_one_line(main, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path / "absent"), *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"peftbench: no records under {tmp_path / 'absent' / 'records'}; run a cell first")
    assert output.err.count("\n") == 1


def test_trials_alone_are_no_leaderboard(main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path).put(make_record(accuracy=None))
    assert main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("peftbench: none of the 1 records has a test score")


def test_trials_beside_results_are_counted(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(results).put(make_record(accuracy=None, protocol="vtab1k_tune"))
    assert main(["--results", str(results)]) == 0
    assert "left out 1 record without a test score" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = results / "file"
    blocked.write_text("")
    assert main(["--results", str(results), "--out", str(blocked / "deeper")]) == 1
    assert f"cannot write {blocked / 'deeper' / 'leaderboard.csv'}" in capsys.readouterr().err
    assert main(["--results", str(results), "--out", str(blocked)]) == 2
    assert capsys.readouterr().err.startswith("peftbench: leaderboard: argument --out:")


VAL = {("lora", 0): 0.61, ("lora", 1): 0.63, ("vpt", 0): 0.72, ("vpt", 1): 0.74}


def validated(method: str, seed: int, tested: bool) -> RunRecord:
    """A record with the validation score of `VAL`; one that was tested too has 0.9123 there."""
    record = make_record(method=method, seed=seed, accuracy=0.9123 if tested else None, dataset="dtd")
    correct = round(200 * VAL[method, seed])
    scores = {"accuracy": correct / 200, "mean_class_accuracy": 0.5, "loss": 1.0, "correct": correct, "n": 200}
    splits = {**record.data["splits"], "val": {"name": "val200", "n": 200, "digest": "d3"}}
    data = {**record.data, "splits": splits}
    return dataclasses.replace(record, metrics={**record.metrics, "val": scores}, data=data)


@pytest.mark.parametrize("tested", [False, True])
@pytest.mark.parametrize("most_embedded", [0, 100])
def test_validation_scores_are_shown_and_nothing_of_the_test_split(
    main, tmp_path: Path, tested: bool, most_embedded: int, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("peftbench.cli.commands.leaderboard.MOST_EMBEDDED", most_embedded)
    store = Store(tmp_path)
    for method, seed in VAL:
        store.put(validated(method, seed, tested))
    site = tmp_path / "site"
    assert main(["--results", str(tmp_path), "--select", "val", "--site", str(site)]) == 0
    folder = tmp_path / "work" / "leaderboard" / "val"
    frame = pd.read_csv(folder / "leaderboard.csv")
    assert frame["method"].tolist() == ["vpt", "lora"]
    assert frame["dtd_mean"].tolist() == pytest.approx([73.0, 62.0])
    said = capsys.readouterr().out
    assert "; on validation images" in said
    assert not (tmp_path / "leaderboard").exists()
    html = (folder / "leaderboard.html").read_text()
    embedded = re.findall(r'id="records-[^"]*">([^<]+)<', html)
    assert bool(embedded) == (most_embedded == 100)
    shown = [said, html, *(gzip.decompress(base64.b64decode(part)).decode() for part in embedded)]
    for path in (path for place in (folder, site) for path in place.rglob("*") if path.is_file()):
        content = path.read_bytes()
        shown.append((gzip.decompress(content) if path.suffix == ".gz" else content).decode())
    for text in shown:
        assert "0.9123" not in text and "91.2" not in text and '"links":{"' not in text


def test_no_validation_scores_is_said(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results), "--select", "val"]) == 2
    assert capsys.readouterr().err.startswith("peftbench: none of the 4 records has a validation score; protocol=")
    assert main(["--results", str(results), "--select", "val", "--published"]) == 2
    assert capsys.readouterr().err.startswith("peftbench: --published: published figures are test scores")


def test_own_and_packed_results_are_kept_apart(main, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = [make_record(method=method, dataset="dtd", accuracy=0.8, seed=seed) for method in "ab" for seed in (0, 1)]
    write_pack(results / "records" / "suite.jsonl.gz", packed)
    whole, own = results / "leaderboard", results / "work" / "leaderboard"

    def methods(folder: Path) -> list[str]:
        return pd.read_csv(folder / "leaderboard.csv")["method"].tolist()

    assert main(["--results", str(results), "--suite", "packed"]) == 0
    assert methods(whole) == ["a", "b"]
    shipped = {path.name: path.read_bytes() for path in whole.iterdir()}
    for suite, expected in (["own"], ["lora", "vpt"]), ([], ["a", "b", "lora", "vpt"]):
        capsys.readouterr()
        assert main(["--results", str(results), *(["--suite", *suite] if suite else [])]) == 0
        assert "is left to the packed suites" in capsys.readouterr().out
        assert sorted(methods(own)) == expected
        assert {path.name: path.read_bytes() for path in whole.iterdir()} == shipped
    assert main(["--results", str(results), "--suite", "suite", "--out", str(results / "named")]) == 0
    assert methods(results / "named") == ["a", "b"]
    assert main(["--results", str(results), "--suite", "siute"]) == 2
    assert capsys.readouterr().err == "peftbench: --suite: no pack 'siute'; did you mean 'suite'?\n"
    for file in Store(results).record_files():
        file.unlink()
    assert main(["--results", str(results), "--suite", "own", "--method", "a"]) == 2
    said = "peftbench: --suite own: no record is outside packs; leave out --suite for all 4\n"
    assert capsys.readouterr().err == said
