"""What a user hears before cells are run."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from peftbench.cli.launch import sweep_cautions
from peftbench.sweep.grid import plan_grid


def test_a_sweep_says_each_caution_once(tmp_path: Path) -> None:
    words = ["dataset=digits", "method=linear,lora", "seed=0,1", "optim.lr=0.5,0.01", f"runtime.results={tmp_path}"]
    grid, _ = plan_grid(words)
    assert len(grid.cells) == 8
    [line] = sweep_cautions(grid)
    assert "optim.lr=0.5 is outside" in line


def test_a_sweep_over_protocols_says_what_one_of_them_chooses_by(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for index in range(count):
                Image.new("L", (2, 2), index).save(tmp_path / "pets" / part / name / f"{index}.png")
    words = ["dataset=folder", f"dataset.root={tmp_path / 'pets'}", "method=linear,lora", f"runtime.results={tmp_path}"]
    grid, _ = plan_grid([*words, "protocol=full,full_tune"])
    assert len(grid.cells) == 4 and not grid.problems
    assert [line for line in sweep_cautions(grid) if "validate" in line] == [
        "pets: 1 image validates, and what is best on so few is so by chance; name a val part in place of a tenth of "
        "the train part, or choose nothing by them"
    ]
