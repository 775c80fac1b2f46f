"""What classes are called is part of a cell where a task reads it, and of no other."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from peftbench.cells.cell import Cell, plan
from peftbench.config.compose import Trees
from peftbench.config.gate import from_tree
from peftbench.config.overrides import named_options


def planned(folder: Path, second: str, *words: str) -> Cell:
    """A cell on six images of two classes, `ant` and the second."""
    lines = []
    for row in range(6):
        Image.new("RGB", (8, 8), (40 * row, 0, 0)).save(folder / f"{row}.png")
        lines.append(f"{row}.png,{('ant', second)[row % 2]},{'train' if row < 4 else 'test'}\n")
    (folder / "list.csv").write_text("path,label,split\n" + "".join(lines))
    all_words = ["dataset=csv", f"dataset.path={folder / 'list.csv'}", "protocol=full", "method=linear", *words]
    config, _ = from_tree(Trees().of(all_words), named_options(all_words))
    return plan(config)


def test_a_renamed_class_is_another_cell_where_its_name_is_read(tmp_path: Path) -> None:
    reading = ["task=text_classification", "backbone=pair_micro"]
    first, second = planned(tmp_path, "bee", *reading), planned(tmp_path, "cat", *reading)
    assert first.identity["class_names"] == ["ant", "bee"] and first.fingerprint != second.fingerprint
    plain, renamed = planned(tmp_path, "bee"), planned(tmp_path, "cat")
    assert "class_names" not in plain.identity and plain.fingerprint == renamed.fingerprint
