"""`import peftbench`: light, and the same code as the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import peftbench
from peftbench.boards.render import write
from peftbench.cli.commands.leaderboard import main as leaderboard_command
from peftbench.foundation.errors import ConfigError, MissingInput
from peftbench.records.store import Store
from tests.conftest import REPOSITORY
from tests.record_factory import make_record


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, peftbench; print(sorted({'torch', 'timm', 'pandas', 'numpy', 'hydra'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert result.stdout.strip() == "[]"


def test_every_name_is_there_and_packages_of_the_same_name_still_import() -> None:
    assert set(peftbench.__all__) <= set(dir(peftbench))
    assert all(callable(getattr(peftbench, name)) for name in peftbench.__all__)
    import peftbench.methods.lora as lora

    assert peftbench.methods.lora is lora
    with pytest.raises(AttributeError, match="no attribute 'lorra'"):
        peftbench.lorra  # noqa: B018


def test_methods_data_sets_and_backbones_are_tables() -> None:
    methods = peftbench.methods().set_index("method")
    assert methods.loc["lora", "options"]["rank"] == 8 and methods.loc["lora", "merges"]
    assert methods.loc["gps", "looks_first"] and not methods.loc["lora", "looks_first"]
    backbones = peftbench.backbones().set_index("backbone")
    assert backbones.loc["vit_micro", "weights"] == "embedded"
    datasets = peftbench.datasets().set_index("dataset")
    assert datasets.loc["digits", "state"] == "ready" and datasets.loc["vtab/dtd", "state"] == "missing"


@pytest.mark.slow
def test_a_cell_runs_once_and_its_record_is_in_the_tables(tmp_path: Path) -> None:
    words = {"method": "linear", "dataset": "digits", "train": "smoke", "results": tmp_path}
    record = peftbench.run("runtime.progress=false", **words)
    assert record.labels["method"] == "linear" and record.metrics["test"]["n"] > 0
    assert peftbench.run("runtime.progress=false", **words) == record
    rows = peftbench.records(tmp_path)
    assert list(rows["fingerprint"]) == [record.fingerprint]
    board = peftbench.leaderboard(tmp_path)
    assert board.frame.loc[0, "digits_mean"] == pytest.approx(100 * record.metrics["test"]["accuracy"])


def test_wrong_words_are_the_command_lines_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        peftbench.run(method="linaer", results=tmp_path)
    with pytest.raises(ConfigError, match="name 2"):
        peftbench.run("seed=0,1", method="linear", dataset="digits", results=tmp_path)
    with pytest.raises(MissingInput, match="run a cell first"):
        peftbench.leaderboard(tmp_path)


def test_a_path_with_signs_of_its_own_arrives_whole(tmp_path: Path) -> None:
    folder = tmp_path / "my photos, it's (1) a=b"
    with pytest.raises(MissingInput, match=r"my photos, it's \(1\) a=b"):
        peftbench.run("dataset.num_train=8", **{"dataset": "folder", "dataset.root": str(folder)}, results=tmp_path)


def test_a_board_shows_itself_in_a_notebook_and_is_narrowed_by_labels(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for method, accuracy in (("lora", 0.81234), ("vpt", 0.7)):
        store.put(make_record(method=method, accuracy=accuracy))
    board = peftbench.leaderboard(tmp_path)
    html = board._repr_html_()
    assert "<th>method</th>" in html and "<td>lora</td>" in html and "<td>81.2</td>" in html
    assert "| lora" in str(board)
    assert list(peftbench.leaderboard(tmp_path, method="vpt").frame["method"]) == ["vpt"]
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        peftbench.leaderboard(tmp_path, method="lorra")


def test_a_board_of_the_committed_records_is_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = REPOSITORY / "results"
    words = ["--results", str(results), "--out", str(tmp_path / "command"), "--no-report", "--no-index"]
    assert leaderboard_command(words) == 0
    board = peftbench.leaderboard(results)
    assert any("\N{SECTION SIGN}" in line.partition("|")[2] for line in str(board).splitlines())
    assert "\N{SECTION SIGN}" in board._repr_html_()
    files = [path.name for path in write(board.tables, tmp_path / "python")]
    assert sorted(files) == sorted(path.name for path in (tmp_path / "command").iterdir())
    for name in files:
        assert (tmp_path / "python" / name).read_text() == (tmp_path / "command" / name).read_text()


def test_a_file_that_is_no_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Store(tmp_path).put(make_record())
    path.with_name("other.json").write_text("{}")
    for ask in (peftbench.leaderboard, peftbench.records):
        ask(tmp_path)
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("skipped ") and "other.json" in line
