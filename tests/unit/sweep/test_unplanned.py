"""What stands in the way of cells: each cause once, the advice once."""

from __future__ import annotations

from peftbench.foundation.errors import MissingInput, said_once
from peftbench.sweep.state import UNPLANNED, CellState
from peftbench.sweep.summary import sweep_lines, unplanned_lines


def missing(name: str) -> str:
    return str(MissingInput(f"{name}: not in data: there is no such folder", "Set dataset.root.", "digits is here."))


def test_a_list_says_what_is_missing_by_name_and_the_advice_once() -> None:
    assert said_once([missing("dtd"), missing("svhn"), missing("dtd")]) == [
        "dtd: not in data: there is no such folder",
        "svhn: not in data: there is no such folder",
        "Set dataset.root.",
        "digits is here.",
    ]


def test_cells_fall_together_by_their_cause() -> None:
    problems = [(f"dataset={name} method={method}", missing(name)) for method in "ab" for name in ("dtd", "svhn")]
    assert unplanned_lines([*problems, ("dataset=csv", "wrong list")]) == [
        "5 cells cannot be planned:",
        "  dtd: not in data: there is no such folder (2 cells)",
        "  svhn: not in data: there is no such folder (2 cells)",
        "  wrong list",
        "  Set dataset.root.",
        "  digits is here.",
    ]
    assert unplanned_lines([]) == []


def test_many_causes_are_cut_to_their_first_statement_and_say_where_the_rest_is() -> None:
    lines = unplanned_lines((name, missing(name)) for name in ("dtd", "svhn", "pets", "kitti"))
    assert lines[1] == "  dtd: not in data" and len(lines) == 8
    assert lines[-1] == "  In full for one of them: `python -m peftbench data verify dtd`."


def test_a_sweep_ends_with_the_causes_and_counts_their_cells_as_failed() -> None:
    outcomes = [CellState("failed", f"seed={seed}", UNPLANNED, missing("dtd")) for seed in range(3)]
    lines = sweep_lines([*outcomes, CellState("failed", "lora on digits", "lora", "out of memory")])
    assert "failed: lora on digits: out of memory" in lines and lines.count("3 cells cannot be planned:") == 1
    assert lines[-1].split(", ")[2] == "4 failed" and sum("dtd:" in line for line in lines) == 1
