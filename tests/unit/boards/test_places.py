"""A leaderboard replaces its own files of this and other versions, and none of others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.boards.places import check_reliability, check_report, check_site, check_tables
from peftbench.foundation.errors import ConfigError, RecordError
from peftbench.records.store import Store
from tests.conftest import REPOSITORY
from tests.record_factory import make_record

ALL = [f"leaderboard.{ending}" for ending in ("csv", "json", "md", "tex", "html")]
ALL += [f"reliability.{ending}" for ending in ("csv", "json", "md")]
# how the files of earlier versions began
EARLIER = {
    "leaderboard.csv": [
        "backbone,protocol,tuned,method,complete,num_seeds_min,num_seeds_max,params_method\n",
        "backbone,protocol,hyperparameters,method,remark,published_by,complete,verdict,num_seeds_min,num_seeds_max\n",
        "backbone,protocol,hyperparameters,split,recipe,method,lr,changed,complete,num_seeds_min,num_seeds_max\n",
        "task,metric,better,backbone,protocol,split,recipe,method,complete,num_seeds_min,num_seeds_max\n",
    ],
    "leaderboard.json": [
        '{\n "schema": 1,\n "accuracy_unit": "percent",\n "legend": "Accuracy in percent on the test split, mean ± '
        "sample standard deviation over seeds (no ± for one seed). params: "
    ],
    "leaderboard.md": [
        "# Leaderboard\n\nAccuracy in percent on the test split, mean ± sample standard deviation over seeds (no ±"
    ],
    "leaderboard.tex": ["% Accuracy in percent on the test split, mean ± sample standard deviation over seeds (no ±"],
    "leaderboard.html": ['<!doctype html>\n<html lang="en">\n<head>\n<title>peftbench leaderboard</title>\n'],
}
# what people may have under these names
FOREIGN = {
    ".csv": "team,points\nred,3\n",
    ".json": '{"schema": 1, "tables": []}\n',
    ".md": "# Leaderboard\n\nWho won the race of the village.\n",
    ".tex": "\\begin{table}\n",
    ".html": "<!doctype html><title>Leaderboard</title>",
}


@pytest.fixture
def main(command: Callable[..., int]) -> Callable[[list[str]], int]:
    return lambda words: command("leaderboard", *words)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    for method in ("lora", "vpt"):
        for seed in (0, 1):
            store.put(make_record(method=method, seed=seed, accuracy=0.5 + seed / 10))
    return store.root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_committed_tables_are_known(tmp_path: Path) -> None:
    folder = shutil.copytree(REPOSITORY / "results" / "leaderboard", tmp_path / "leaderboard")
    before = contents(folder)
    check_tables(folder)
    check_reliability(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(("name", "start"), [(name, start) for name, starts in EARLIER.items() for start in starts])
def test_files_of_earlier_versions_are_known(tmp_path: Path, name: str, start: str) -> None:
    (tmp_path / name).write_text(start)
    check_tables(tmp_path)
    check_report(tmp_path)
    assert (tmp_path / name).read_text() == start


def test_what_it_wrote_is_written_again(main, results: Path, tmp_path: Path) -> None:
    out, site = tmp_path / "out", tmp_path / "site"
    words = ["--results", str(results), "--out", str(out), "--site", str(site), "--reliability"]
    assert main(words) == 0
    first = contents(out), contents(site)
    assert set(first[0]) == set(ALL)
    for path in (*out.iterdir(), site / "index.html"):
        # of other records than now
        path.write_bytes(path.read_bytes() + b"\n")
    assert main(words) == 0
    assert (contents(out), contents(site)) == first


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_others_stays_and_nothing_is_written(
    main, results: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(FOREIGN[Path(name).suffix])
    words = ["--results", str(results), "--out", str(out), "--site", str(tmp_path / "site"), "--reliability"]
    assert main(words) == 2
    said = capsys.readouterr()
    kind = "page of a leaderboard" if name.endswith("html") else f"table of a {name.partition('.')[0]}"
    assert said.err == (
        f"peftbench: {out / name} would be written over, and what is there is no {kind} of this package; move it away, "
        "or name another folder with --out\n"
    )
    assert said.out == ""
    assert contents(out) == {name: FOREIGN[Path(name).suffix].encode()}
    assert not (tmp_path / "site").exists()


def test_what_is_not_to_be_written_is_not_in_the_way(main, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("reliability.md", "leaderboard.html"):
        (out / name).write_text("of others")
    assert main(["--results", str(results), "--out", str(out), "--no-report"]) == 0
    assert {(out / name).read_text() for name in ("reliability.md", "leaderboard.html")} == {"of others"}
    # an empty file holds nothing to lose
    (out / "leaderboard.html").write_text("")
    assert main(["--results", str(results), "--out", str(out)]) == 0
    assert "peftbench leaderboard" in (out / "leaderboard.html").read_text()


@pytest.mark.parametrize("name", ["index.html", "leaderboard.md", "records/0-0.jsonl.gz", "pictures/{record}.png"])
def test_a_site_takes_the_place_of_no_file_of_others(
    main, results: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site, record = tmp_path / "site", make_record(method="lora", accuracy=0.5).fingerprint
    path = site / name.format(record=record)
    path.parent.mkdir(parents=True)
    path.write_text("of others")
    assert main(["--results", str(results), "--site", str(site), "--no-report"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"peftbench: {path} would be written over") and said.count("\n") == 1
    assert said.endswith("move it away, or name another folder with --site\n")
    assert list(contents(site).values()) == [b"of others"] and not (results / "leaderboard").exists()


def test_a_site_lies_outside_the_records_and_leaves_a_mark_for_hosting_as_it_is(
    main, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(results / "records")
    assert main(["--results", str(results), "--site", str(results)]) == 2
    assert capsys.readouterr().err == (
        f"peftbench: --site {results} would write among the records that are read; name another folder\n"
    )
    assert contents(results / "records") == before
    site = tmp_path / "site"
    site.mkdir()
    (site / ".nojekyll").write_text("pages of mine\n")
    assert main(["--results", str(results), "--site", str(site)]) == 0
    assert (site / ".nojekyll").read_text() == "pages of mine\n"


def test_a_folder_in_the_place_of_a_file_is_said_ahead(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.tex").mkdir()
    with pytest.raises(RecordError, match=r"leaderboard.tex: Is a directory; .* move that folder away"):
        check_tables(tmp_path)
    with pytest.raises(ConfigError, match="among the records that are read"):
        check_site(tmp_path, [], tmp_path / "records")
