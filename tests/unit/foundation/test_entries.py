"""What lies in folders: found as `Path.glob` finds it, but for folders that may not be read, which end the search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.data.clips.listings import from_folders, from_hmdb51
from peftbench.data.pixels.entry import listed
from peftbench.data.sources.camera_motion import CameraMotion
from peftbench.data.sources.coco_files import instance_files
from peftbench.data.sources.hf import HfDataset
from peftbench.data.vtab.folder import VtabFolder
from peftbench.data.vtab.hub import VtabHub
from peftbench.data.vtab.original import VtabOriginal
from peftbench.foundation.entries import all_below, entries_in, matching
from peftbench.foundation.errors import BadInput
from peftbench.records.claims import Claims
from peftbench.records.index import read_rows
from peftbench.records.robustness import mean_scores
from peftbench.records.store import Store
from tests.closed_folders import close_folder
from tests.conftest import REPOSITORY


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/1.png", "b/c/3.png", "a/1.png", "a/.x.png", "d.png", "[e]/4.png", "top.txt"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"x")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "tree" / "b", target_is_directory=True)
    return tmp_path / "tree"


@pytest.mark.parametrize(
    "pattern", ["*", "*/*.png", "b/*.png", "*/1.png", "*/*/*", "b", "b/c/3.png", "no/*", "d.png/*", "*/c", "[ad]*", "?"]
)
def test_what_a_pattern_names_is_what_glob_names_in_order(tree: Path, pattern: str) -> None:
    assert list(matching(tree, pattern)) == sorted(tree.glob(pattern))


def test_all_below_is_what_rglob_names_in_order(tree: Path) -> None:
    assert all_below(tree) == sorted(tree.rglob("*"))
    assert entries_in(tree) == sorted(tree.iterdir())


@pytest.mark.parametrize("name", ["nowhere", "d.png"])
def test_what_is_no_folder_holds_nothing(tree: Path, name: str) -> None:
    assert [entries_in(tree / name), list(matching(tree / name, "*")), all_below(tree / name)] == [[], [], []]


def test_the_first_match_is_found_without_the_folders_behind_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_folder(monkeypatch, tree / "b")
    assert next(matching(tree, "*/*.png")) == tree / "[e]/4.png"
    with pytest.raises(BadInput, match="b: permission denied; give yourself the right"):
        list(matching(tree, "*/*.png"))


def test_a_path_behind_a_closed_folder_is_not_said_to_be_absent(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def refused(path: Path, **options: bool) -> object:
        if path.parent == tree / "b":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(BadInput, match=r"b/1\.png: permission denied"):
        list(matching(tree, "b/1.png"))


READERS: dict[str, Callable[[Path], object]] = {
    "a folder": entries_in,
    "below": lambda closed: all_below(closed.parent),
    "coco": lambda closed: list(instance_files(closed)),
    "hmdb51": lambda closed: from_hmdb51(closed, 1),
    "clips": from_folders,
    "camera_motion": lambda closed: CameraMotion(root=str(closed)).open(),
    "hf": lambda closed: HfDataset(path=str(closed.parent)).inputs(),
    "vtab_folder": lambda closed: VtabFolder(task="dtd", root=str(closed)).check(),
    "vtab_original": lambda closed: VtabOriginal(task="smallnorb_azi", originals=str(closed.parent)).check(),
    "the cache of pixels": listed,
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_says_which_folder_it_may_not_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "smallnorb"
    closed.mkdir()
    close_folder(monkeypatch, closed)
    with pytest.raises(BadInput, match="smallnorb: permission denied; give yourself the right to it"):
        READERS[name](closed)


def test_a_store_of_fetched_tasks_that_may_not_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    store = tmp_path / "vtab-1k-hub" / "me+mine"
    store.mkdir(parents=True)
    close_folder(monkeypatch, store)
    with pytest.raises(BadInput, match="mine: permission denied"):
        VtabHub(task="dtd", repo="me/mine").check()


RESULTS: dict[str, Callable[[Path], object]] = {
    "records": lambda results: Store(results).fingerprints(),
    "records/vit": lambda results: Store(results).find("0" * 16),
    "records/vit/lora": lambda results: read_rows(Store(results), use_index=False),
    "records/vit/lora/digits": lambda results: read_rows(Store(results)),
    "work/failures": lambda results: Store(results).failures(),
    "work/claims": lambda results: Claims(results / "work/claims").holder("0" * 16),
    "robustness": mean_scores,
}


@pytest.mark.parametrize("name", RESULTS)
def test_no_folder_of_results_is_passed_over(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / name
    closed.mkdir(parents=True)
    close_folder(monkeypatch, closed)
    with pytest.raises(BadInput, match=f"{name}: permission denied; give yourself the right to it"):
        RESULTS[name](tmp_path)


def test_no_reader_searches_folders_in_another_way() -> None:
    files = [path for room in ("data", "records") for path in (REPOSITORY / "peftbench" / room).rglob("*.py")]
    assert len(files) > 60
    assert [path for path in files if any(word in path.read_text() for word in (".glob(", ".rglob(", "os.walk("))] == []
