"""Tables as text: exact numbers for machines, rounded ones for readers, and nothing cut off."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.render import to_csv, to_markdown, write
from peftbench.boards.table import Table
from peftbench.boards.terminal import show
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from tests.record_factory import make_record, record_values


def records() -> list[RunRecord]:
    """lora: two data sets of two groups with three and two seeds; vpt lacks one of them."""
    lora = [make_record(seed=seed, accuracy=accuracy) for seed, accuracy in enumerate([0.7000, 0.7050, 0.7163])]
    lora += [make_record(seed=seed, accuracy=accuracy, dataset="eurosat") for seed, accuracy in enumerate([0.9, 0.92])]
    return [*lora, make_record(method="vpt", accuracy=0.8, method_params=460_800, memory_bytes=None)]


@pytest.fixture
def table() -> Table:
    [found] = leaderboard(collect(records()))
    return found


def markdown_rows(text: str) -> list[dict[str, str]]:
    lines = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    header, _, *body = lines
    return [dict(zip(header, row, strict=True)) for row in body]


def test_csv_holds_unrounded_numbers_and_leaves_the_unknown_empty(table: Table) -> None:
    frame = pd.read_csv(io.StringIO(to_csv(table)), dtype=str, keep_default_na=False)
    lora, vpt = frame.to_dict("records")
    assert (lora["method"], lora["complete"], vpt["method"], vpt["complete"]) == ("lora", "True", "vpt", "False")
    # 212.13 / 3, and deviations -0.71, -0.21, 0.92 percent
    assert float(lora["cifar100_mean"]) == pytest.approx(70.71, rel=1e-12)
    assert float(lora["cifar100_std"]) == pytest.approx(((0.71**2 + 0.21**2 + 0.92**2) / 2) ** 0.5, rel=1e-9)
    assert (lora["cifar100_n"], lora["eurosat_n"], lora["num_seeds_min"], lora["num_seeds_max"]) == ("3", "2", "2", "3")
    assert float(lora["mean_of_groups_mean"]) == pytest.approx((70.71 + 91) / 2)
    assert float(lora["natural_group_mean"]) == pytest.approx(70.71)
    empty = ("eurosat_mean", "eurosat_std", "eurosat_n", "cifar100_std", "flat_mean", "ppt", "memory_bytes")
    assert [vpt[name] for name in empty] == [""] * len(empty)
    assert (vpt["cifar100_n"], float(vpt["params_method"])) == ("1", 460_800)


def test_markdown_is_rounded_and_says_what_is_missing(table: Table) -> None:
    text = to_markdown(table)
    lora, vpt = markdown_rows(text)
    assert text.startswith("## vit_b16, vtab1k, paper defaults\n\n|")
    assert lora["cifar100"] == "70.7 ± 0.8"
    assert lora["eurosat"] == "91.0 ± 1.4 (n=2)"
    assert (lora["params (M)"], lora["memory (MB)"], lora["seeds"]) == ("0.290", "4", "2 to 3")
    # the data sets have other seeds: a mean without spread
    assert lora["mean of groups"] == lora["flat mean"] == "80.86"
    assert vpt["cifar100"] == "80.0"
    assert {vpt[name] for name in ("eurosat", "flat mean", "mean of groups", "PPT", "memory (MB)")} == {"—"}
    assert "1 of 2 rows" in text


def test_a_single_group_has_one_mean_column() -> None:
    [table] = leaderboard(collect([make_record(), make_record(dataset="dtd")]))
    [row] = markdown_rows(to_markdown(table))
    assert [name for name in row if "mean" in name] == ["flat mean"]


def test_labels_cannot_break_the_table() -> None:
    [table] = leaderboard(collect([make_record(method="a|b [red]x[/red]", dataset="my | pets")]))
    [row] = markdown_rows(to_markdown(table))
    assert (row["method"], row["my \\| pets"]) == ("a\\|b [red]x[/red]", "50.0")
    assert "a|b [red]x[/red]" in shown(table, 140)
    assert pd.read_csv(io.StringIO(to_csv(table)))["method"].tolist() == ["a|b [red]x[/red]"]


def test_methods_that_depart_from_their_paper_are_marked_in_every_form() -> None:
    remark = "adapted. Made for video; here images."
    methods = [("lora", ""), ("patt", remark), ("patt (scale=1.0)", remark), ("last", "details not published")]
    [table] = leaderboard(collect(make_record(method=method, remark=text) for method, text in methods))
    marked = {"lora", "patt †", "patt (scale=1.0) †", "last †"}
    text = to_markdown(table)
    assert {row["method"] for row in markdown_rows(text)} == marked
    assert f"\n- † patt, patt (scale=1.0): {remark}\n" in text
    assert "\n- † last: details not published\n" in text
    printed = shown(table, 140)
    assert all(name in printed for name in marked) and f"† patt, patt (scale=1.0): {remark}" in printed
    rows = pd.read_csv(io.StringIO(to_csv(table)), keep_default_na=False).set_index("method")["remark"]
    assert rows.to_dict() == dict(methods)


def shown(table: Table, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    show(table, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140, 400])
def test_the_terminal_shows_every_number_whole(width: int) -> None:
    datasets = [f"vtab/some_data_set_{index}" for index in range(19)]
    [table] = leaderboard(
        collect(
            make_record(method=method, dataset=dataset, seed=seed, accuracy=(10 + index) / 100 + seed / 1000)
            for method in ("lora", "lora (rank=16)")
            for index, dataset in enumerate(datasets)
            for seed in (0, 2)
        )
    )
    text = shown(table, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for index in range(19):
        assert f"some_data_set_{index}" in text
        assert text.count(f" {10 + index}.1 ± 0.1 ") == 2
    assert "…" not in text


def test_tables_of_other_columns_share_one_file(tmp_path: Path) -> None:
    tables = leaderboard(collect([*records(), make_record(backbone="swin_b", dataset="dtd")]))
    csv, markdown = write(tables, tmp_path / "leaderboard", ["csv", "md"])
    frame = pd.read_csv(csv)
    assert frame["backbone"].tolist() == ["swin_b", "vit_b16", "vit_b16"]
    assert frame["dtd_mean"].notna().tolist() == [True, False, False]
    assert "3.0" not in csv.read_text().split(",")
    text = markdown.read_text()
    assert text.index("## swin_b") < text.index("## vit_b16")
    assert sorted(path.name for path in csv.parent.iterdir()) == ["leaderboard.csv", "leaderboard.md"]


def test_order_gap_and_top_5_of_clips_are_columns_where_there_are_clips() -> None:
    values = [record_values(method=method, group="video") for method in ("linear", "aim")]
    for number, record in enumerate(values):
        record["metrics"]["test"] |= {"accuracy_shuffled": 0.25, "order_gap": 0.25 * number}
        record["metrics"]["test"]["top5_accuracy"] = 0.75 + number / 8
    [table] = leaderboard(collect(RunRecord(**record) for record in values))
    rows = {row["method"]: row for row in markdown_rows(to_markdown(table))}
    assert (rows["aim"]["order gap"], rows["linear"]["order gap"]) == ("25.0", "0.0")
    assert (rows["aim"]["top-5"], rows["linear"]["top-5"]) == ("87.5", "75.0")
    assert any(note.startswith("samples are clips") for note in table.notes)
    frame = pd.read_csv(io.StringIO(to_csv(table))).set_index("method")
    assert frame.loc["aim", "order_gap"] == 25 and frame.loc["aim", "top5_accuracy"] == 87.5
    [images] = leaderboard(collect(records()))
    assert "order gap" not in to_markdown(images) and "order_gap" not in to_csv(images)
    assert "top-5" not in to_markdown(images) and "top5_accuracy" not in to_csv(images)


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write(leaderboard(collect(records())), tmp_path)]
    again = [path.read_bytes() for path in write(leaderboard(collect(records()[::-1])), tmp_path)]
    assert first == again


def test_no_name_is_taken_for_a_formula_by_a_spreadsheet() -> None:
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "plain - 1"]
    [table] = leaderboard(collect([*(make_record(method=name) for name in names[:4]), make_record(dataset="=cmd")]))
    frame = pd.read_csv(io.StringIO(to_csv(table)), dtype=str)
    assert {"'=1+1", "'+1", "'-1", "'@SUM(A1)"} <= set(frame["method"])
    assert "'=cmd_mean" in frame.columns
    numbers = frame.set_index("method")["params_method"]
    assert float(numbers["lora"]) == 290_000


def test_names_are_no_tags_links_or_images_in_markdown() -> None:
    names = ["<img src=x onerror=alert(1)>", "[here](http://x)", "![i](x)", "[a][b]", "a|b"]
    [table] = leaderboard(collect(make_record(method=name, remark=f"see {name}") for name in names))
    text = to_markdown(table)
    assert "<img" not in text and "](" not in text and "][" not in text
    assert {"&lt;img src=x onerror=alert(1)>", "[here]\\(http://x)", "a\\|b"} <= {
        row["method"].removesuffix(" †") for row in markdown_rows(text)
    }


def test_a_name_that_would_command_the_terminal_is_shown_as_its_signs() -> None:
    [table] = leaderboard(collect([make_record(method="a\x1b[2J\nb", dataset="d\u202e")]))
    assert "a\\x1b[2J b" in shown(table, 200) and "d\\u202e" in shown(table, 200)
    assert all(sign.isprintable() or sign == "\n" for sign in shown(table, 200) + to_markdown(table) + to_csv(table))
