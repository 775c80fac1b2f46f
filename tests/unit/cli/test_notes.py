"""What a user hears before cells are run."""

from __future__ import annotations

from pathlib import Path

from peftbench.cli.launch import sweep_cautions
from peftbench.sweep.grid import plan_grid


def test_a_sweep_says_each_caution_once(tmp_path: Path) -> None:
    words = ["dataset=digits", "method=linear,lora", "seed=0,1", "optim.lr=0.5,0.01", f"runtime.results={tmp_path}"]
    grid, _ = plan_grid(words)
    assert len(grid.cells) == 8
    [line] = sweep_cautions(grid)
    assert "optim.lr=0.5 is outside" in line
