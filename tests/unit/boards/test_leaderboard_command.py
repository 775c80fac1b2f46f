"""The command a user types: tables, files, and one clear line when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from peftbench.cli.commands.leaderboard import main
from peftbench.foundation.errors import ConfigError
from peftbench.records.store import Store
from tests.record_factory import make_record


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    for method in ("lora", "vpt"):
        for dataset in ("dtd", "eurosat"):
            store.put(make_record(method=method, dataset=dataset))
    return tmp_path


def test_tables_are_shown_and_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results)]) == 0
    output = capsys.readouterr()
    assert "vit_b16, vtab1k, paper defaults" in output.out
    assert "lora" in output.out
    assert output.err == ""
    frame = pd.read_csv(results / "leaderboard" / "leaderboard.csv")
    assert frame["method"].tolist() == ["lora", "vpt"]
    assert (results / "leaderboard" / "leaderboard.md").is_file()


def test_a_pipe_is_as_wide_as_columns_says(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def widest(columns: str) -> int:
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["--results", str(results), "--no-report", "--out", str(results / "o")]) == 0
        shown = capsys.readouterr().out.splitlines()
        return max(len(line) for line in shown if not line.startswith("wrote "))

    assert widest("80") <= 80 < widest("") <= 140


def test_a_choice_does_not_replace_the_whole_leaderboard(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results), "--method", "vpt", "--dataset", "dtd"]) == 0
    assert "lora" not in capsys.readouterr().out
    assert not (results / "leaderboard").exists()
    assert main(["--results", str(results), "--method", "vpt", "--out", str(results / "choice")]) == 0
    assert pd.read_csv(results / "choice" / "leaderboard.csv")["method"].tolist() == ["vpt"]


def test_an_unknown_name_is_answered_with_the_nearest(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results), "--method", "loar", "--backbone", "vit_b16"]) == 2
    assert capsys.readouterr().err == "--method: no record has 'loar'; did you mean 'lora'?\n"


def test_skipped_files_are_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = next((results / "records").rglob("*.json")).with_name("damaged.json")
    damaged.write_text("{")
    assert main(["--results", str(results)]) == 0
    assert capsys.readouterr().err.startswith(f"skipped {damaged}: not valid JSON")


@pytest.mark.parametrize("options", [[], ["--method", "lora"]])
def test_no_records_is_one_line(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path / "absent"), *options]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"no records under {tmp_path / 'absent' / 'records'}; run a cell first")
    assert output.err.count("\n") == 1


def test_trials_alone_are_no_leaderboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path).put(make_record(accuracy=None))
    assert main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("none of the 1 records has a test score")


def test_trials_beside_results_are_counted(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(results).put(make_record(accuracy=None, protocol="vtab1k_tune"))
    assert main(["--results", str(results)]) == 0
    assert "left out 1 record without a test score" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = results / "file"
    blocked.write_text("")
    assert main(["--results", str(results), "--out", str(blocked / "deeper")]) == 1
    assert f"cannot write {blocked / 'deeper' / 'leaderboard.csv'}" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="is a file, a folder is needed"):
        main(["--results", str(results), "--out", str(blocked)])
