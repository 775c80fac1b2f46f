"""Verdicts: which methods cannot be told apart, and saying so when the data is too small."""

from __future__ import annotations

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.table import Comparison
from peftbench.records.collect import collect
from tests.record_factory import make_record


def comparison(scores: dict[str, list[list[float]]]) -> Comparison:
    """Method -> data set -> one accuracy per seed."""
    [table] = leaderboard(
        collect(
            make_record(method=method, dataset=f"set{index:02}", group="natural", accuracy=accuracy, seed=seed)
            for method, datasets in scores.items()
            for index, seeds in enumerate(datasets)
            for seed, accuracy in enumerate(seeds)
        )
    )
    return table.comparison


def test_many_data_sets_decide_by_wilcoxon() -> None:
    level = [0.5 + 0.01 * index for index in range(12)]
    found = comparison(
        {
            "best": [[value + 0.1 + 0.001 * index] for index, value in enumerate(level)],
            "close": [[value + 0.1 + 0.001 * i + (0.004 + 0.0003 * i) * (-1) ** i] for i, value in enumerate(level)],
            "worse": [[value] for value in level],
        }
    )
    assert found.basis == "data sets"
    assert found.verdicts == {"best": "best", "close": "≈ best", "worse": "below"}
    assert found.friedman is not None and found.friedman.p < 0.05
    assert found.wilcoxon is not None
    assert any("Wilcoxon signed-rank over 12 data sets, Holm over 3 pairs" in text for text in found.remarks)


def test_few_data_sets_decide_over_seeds_and_say_so() -> None:
    found = comparison(
        {
            "best": [[0.90, 0.92, 0.91], [0.80, 0.81, 0.82]],
            "close": [[0.90, 0.91, 0.92], [0.80, 0.82, 0.80]],
            "worse": [[0.50, 0.51, 0.52], [0.80, 0.81, 0.79]],
        }
    )
    assert found.basis == "seeds"
    assert found.verdicts == {"best": "best", "close": "≈ best", "worse": "below"}
    assert (found.wilcoxon, found.friedman, found.critical_difference) == (None, None, None)
    # three pairs: 2 / 2^n * 3 <= 0.05 from n = 7 on
    assert any("2 data sets cannot decide a Wilcoxon test between 3 methods (7 needed)" in t for t in found.remarks)
    assert any("no Friedman test and no critical difference" in text for text in found.remarks)


def test_one_data_set_and_one_seed_give_no_verdict() -> None:
    found = comparison({"a": [[0.9]], "b": [[0.5]], "c": [[0.4]]})
    assert found.basis == ""
    assert found.verdicts == {"a": "best", "b": "?", "c": "?"}
    assert any(
        text.startswith("no verdict: a single seed has no spread, and 1 data set cannot") for text in found.remarks
    )


def test_incomplete_rows_take_no_part() -> None:
    found = comparison({"a": [[0.9, 0.8], [0.7, 0.8]], "b": [[0.5, 0.4], [0.4, 0.5]], "half": [[0.99, 0.99]]})
    assert found.methods == ("a", "b")
    assert found.ranks == (1.0, 2.0)
    assert "half" not in found.verdicts


def test_a_row_with_one_seed_is_not_tested_by_the_others_spread() -> None:
    found = comparison({"a": [[0.9, 0.8]], "b": [[0.1, 0.2]], "c": [[0.15]]})
    assert found.verdicts == {"a": "best", "b": "below", "c": "?"}


def test_a_best_row_with_one_seed_leaves_the_verdicts_to_the_others() -> None:
    found = comparison({"new": [[0.99]], "a": [[0.9, 0.8]], "b": [[0.1, 0.2]]})
    assert found.verdicts == {"new": "?", "a": "best", "b": "below"}
    assert found.basis == "seeds" and found.against_best["new"] is None and "a" not in found.against_best
    assert any("the best PEFT row of several seeds at 5 %" in text for text in found.remarks)


def test_a_single_method_is_compared_with_nothing() -> None:
    found = comparison({"a": [[0.9, 0.8]]})
    assert (found.verdicts, found.remarks) == ({"a": ""}, ("nothing to compare: fewer than two complete rows",))


def test_the_remark_counts_the_comparisons_that_were_corrected() -> None:
    """Three rows have a spread: two are tested against the first of them, and rows of one seed against none."""
    spread = {"a": [[0.9, 0.8, 0.85]], "b": [[0.7, 0.8, 0.75]], "c": [[0.1, 0.2, 0.15]]}
    found = comparison(spread | {"d": [[0.6]], "e": [[0.5]], "f": [[0.4]]})
    assert sum(p is not None for p in found.against_best.values()) == 2
    assert found.against_best["b"] == comparison(spread).against_best["b"]
    assert any("(t over seeds, variance pooled over methods, Holm over 2);" in text for text in found.remarks)
