"""Tables for papers: they compile, fit the page, and show each character as it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from peftbench.boards.latex import to_latex
from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.published import alone
from peftbench.boards.table import Table
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from tests.record_factory import make_record


def table_of(records: list[RunRecord]) -> Table:
    [table] = leaderboard(collect(records))
    return table


def caption(text: str) -> str:
    [found] = re.findall(r"^\\caption\{(.*)\}$", text, re.MULTILINE)
    return str(found)


def row(text: str, method: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"{method} ")]
    return line.removesuffix(r" \\").split(" & ")


def large_table() -> Table:
    """As many rows as there are methods, 19 data sets with spreads, and long remarks on a third of the rows."""
    return table_of(
        [
            make_record(
                method=f"method_{index}",
                dataset=f"vtab/some_long_data_set_{column}",
                seed=seed,
                accuracy=(10 + index + seed) / 100,
                remark=f"adapted. Made for `video_{index}`; here images, {'and more words of the kind, ' * 8}so it is."
                if index % 3 == 0
                else "",
            )
            for index in range(75)
            for column in range(19)
            for seed in (0, 1)
        ]
    )


def test_the_caption_is_the_title_and_notes_stand_below() -> None:
    text = to_latex(table_of([make_record(method="a_b", remark="adapted. Here images."), make_record(method="lora")]))
    assert caption(text) == "vit\\_b16, vtab1k, paper defaults"
    float_, below = text.split(r"\end{table*}")
    assert r"$\dagger$ a\_b: adapted. Here images.\par" in below and "Here images" not in float_
    assert "no verdict" in float_
    # a remark that is a sentence keeps its one full stop
    assert ".." not in text


def test_signs_are_what_they_are() -> None:
    text = to_latex(table_of([make_record(method="a|b", remark="p < 5 %, n > 3, see `mlp_width`")]))
    assert row(text, r"a\textbar{}b $\dagger$")
    assert r"p \textless{} 5 \%, n \textgreater{} 3, see \texttt{mlp\_width}." in text


def test_spreads_are_small_and_the_best_is_bold() -> None:
    accuracies = {"lora": (0.75, 0.76), "ssf": (0.70, 0.71)}
    text = to_latex(
        table_of([make_record(method=m, seed=s, accuracy=a[s]) for m, a in accuracies.items() for s in (0, 1)])
    )
    # 0.5 points to either side of the mean of two: deviation 0.5 * sqrt(2) = 0.71
    assert r"\textbf{75.5$_{\pm0.7}$}" in row(text, "lora")
    assert r"70.5$_{\pm0.7}$" in row(text, "ssf")


def test_only_headers_that_would_widen_their_column_are_turned() -> None:
    records = [
        make_record(dataset=name, seed=s, accuracy=0.5 + s / 100) for name in ("dtd", "long_name") for s in (0, 1)
    ]
    header = row(to_latex(table_of(records)), "method")
    # '50.5 ± 0.7' is ten characters wide
    assert {"dtd", r"long\_name"} <= set(header)
    assert r"\rotatebox{90}{memory (MB)}" in header


def test_published_rows_alone_have_one_rule_above() -> None:
    assert {to_latex(table).count(r"\midrule") for table in alone()} == {1}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs")
@pytest.mark.parametrize("options", ["", "twocolumn"])
def test_a_large_table_compiles_and_fits_the_page(tmp_path: Path, options: str) -> None:
    packages = r"\usepackage{booktabs}\usepackage{graphicx}"
    document = (
        rf"\documentclass[{options}]{{article}}{packages}\begin{{document}}{to_latex(large_table())}\end{{document}}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout
    assert re.findall(r"Overfull.*|.*too large.*|.*Warning.*|Missing character.*", done.stdout) == []
