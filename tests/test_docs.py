"""Generated pages are what the code gives, and the README names only what exists."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from peftbench.cli.main import COMMANDS
from peftbench.methods.base import METHODS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))


def test_the_page_of_parameters_is_current():
    result = subprocess.run([sys.executable, "scripts/parameters_page.py", "--check"], cwd=ROOT, check=False)
    assert result.returncode == 0, "run scripts/parameters_page.py"


def test_the_page_of_methods_is_current(monkeypatch):
    """What attaching tells is tried for an eighth of the methods, always the same; all else for every one."""
    import methods_page

    whole_row, shown = methods_page.row, _rows("methods")

    def row(name, shape, facts):
        if zlib.crc32(name.encode()) % 8 == 0:
            return whole_row(name, shape, facts)
        with monkeypatch.context() as patch:
            known = shown.get(f"`{name}`", {})
            patch.setattr(methods_page, "acts_on", lambda *_: known.get("acts on"))
            patch.setattr(methods_page, "families_of", lambda *_: known.get("backbones"))
            return whole_row(name, shape, facts)

    monkeypatch.setattr(methods_page, "row", row)
    assert (ROOT / "docs" / "methods.md").read_text() == methods_page.page(), "run scripts/methods_page.py"


def _rows(page):
    """The rows of all tables of a page by their first cell, each as {column: cell}."""
    found, header = {}, []
    for line in _lines(page):
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if set(line) <= set("|:- "):
            continue
        if cells[0] in ("method", "objective", "left out"):
            header = cells
        else:
            found.setdefault(cells[0], dict(zip(header, cells, strict=True)))
    return found


@pytest.mark.parametrize("family", ["ViT", "DINOv3", "Swin"])
def test_the_page_of_families_says_what_attaching_gives(family):
    """Three columns of it: the whole, `scripts/families_page.py --check`, takes minutes."""
    from families_page import answer

    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _lines("families")]
    header = next(row for row in cells if row and row[0] == "method" and family in row)
    shown = {row[0].strip("`"): row[header.index(family)] for row in cells if len(row) == len(header)}
    names = [name for name in METHODS.names() if not METHODS.get(name).of_pairs]
    assert {name: shown.get(name) for name in names} == {name: answer(name, family)[0] for name in names}


def _lines(page):
    return [line for line in (ROOT / "docs" / f"{page}.md").read_text().splitlines() if line.startswith("|")]


def test_the_readme_names_only_targets_commands_and_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", readme)) <= targets
    assert set(re.findall(r"python -m peftbench ([a-z]+)(?:\s|$)", readme)) <= set(COMMANDS)
    for folder in re.findall(r"`((?:peftbench|configs|scripts|docs)/[a-z_/]+\.(?:py|yaml|md))`", readme):
        assert (ROOT / folder).is_file() or "mine" in folder, folder


def test_the_page_of_licences_names_all_data_and_weights_that_ship():
    page = (ROOT / "docs" / "licences.md").read_text()
    assets = ROOT / "peftbench" / "assets"
    for file in assets.rglob("*"):
        if file.suffix in (".csv", ".safetensors"):
            assert file.name in page or file.parent.name in page, file.name
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
