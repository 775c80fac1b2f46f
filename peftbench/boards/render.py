"""Tables -> CSV, JSON and Markdown, and all four forms into files; LaTeX is in `latex`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from peftbench.boards.dense import of_classes
from peftbench.boards.escaping import csv_text, markdown
from peftbench.boards.latex import to_latex
from peftbench.boards.places import FORMATS, TABLES
from peftbench.boards.table import Row, Score, Table
from peftbench.boards.texts import (
    LEGEND,
    all_rows,
    beside_headers,
    column_headers,
    headers,
    label,
    notes,
    number,
    texts,
)
from peftbench.foundation.files import replace_text

_MOST_CLASSES = 30


def frame(table: Table) -> pd.DataFrame:
    """One row per method with unrounded numbers: accuracies in percent as `<column>_mean`, `_std`, `_ci95` and `_n`.

    `_ci95` is half the width of the 95 % t interval over seeds.
    """
    # object columns keep whole numbers whole beside empty cells
    return pd.DataFrame([_numbers(table, row) for row in all_rows(table)], dtype=object)


def to_csv(table: Table) -> str:
    """The table as CSV with unrounded numbers (see `frame`); what is unknown or does not exist is empty."""
    return csv_text(frame(table))


def to_json(tables: Sequence[Table]) -> str:
    """All tables with unrounded numbers, the records behind each cell, and the tests; accuracies in percent."""
    content = {"schema": 1, "accuracy_unit": "percent", "legend": LEGEND, "tables": [document(t) for t in tables]}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_markdown(table: Table) -> str:
    """The table as Markdown for readers: rounded, under a heading, with its notes below."""
    names = ["method", *headers(table)]
    cells = pd.DataFrame([[markdown(text) for text in row] for row in texts(table, names[1:])])
    body = cells.to_markdown(
        index=False,
        headers=[markdown(name) for name in names],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(names) - 1)],
    )
    listed = "".join(f"\n- {markdown(note)}" for note in notes(table))
    return f"## {markdown(table.title)}\n\n{body}\n" + (f"{listed}\n" if listed else "") + _classes(table)


def _classes(table: Table) -> str:
    """What the task says of every class, where the rows know it and it can be read: up to 30 classes."""
    names = list(dict.fromkeys(name for row in table.rows for name in row.by_class))
    if not names or len(names) > _MOST_CLASSES:
        return ""
    rows = [
        [markdown(label(row)), *(number(row.by_class.get(name), 1, 1) for name in names)]
        for row in table.rows
        if row.by_class
    ]
    body = pd.DataFrame(rows).to_markdown(
        index=False,
        headers=["method", *map(markdown, names)],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(names)],
    )
    words = of_classes(table.task)[1].capitalize()
    return f"\n{words} of each class, percent, mean over seeds:\n\n{body}\n"


def write(tables: Sequence[Table], folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write leaderboard.csv, .json, .md and .tex, each in one step; raises `RecordError` when the disk refuses."""
    contents = {
        "csv": lambda: _all_csv(tables),
        "json": lambda: to_json(tables),
        "md": lambda: "\n".join(["# Leaderboard\n", f"{LEGEND}\n", *map(to_markdown, tables)]),
        "tex": lambda: "\n".join([f"% {LEGEND}\n", *map(to_latex, tables)]),
    }
    paths = []
    for name, content in contents.items():
        if name in formats:
            paths.append(folder / f"{TABLES}.{name}")
            replace_text(paths[-1], content())
    return paths


def _all_csv(tables: Sequence[Table]) -> str:
    return csv_text(pd.concat([frame(table) for table in tables])) if tables else ""


def _numbers(table: Table, row: Row) -> dict[str, Any]:
    values = _facts(table, row)
    scores: dict[str, Score | None] = {"mean_of_groups": row.mean_of_groups, "flat": row.flat_mean}
    scores |= {f"{group}_group": row.group_means.get(group) for group in table.groups}
    scores |= {name: row.cells.get(name) for name in column_headers(table)}
    for name, score in scores.items():
        numbers = _score(score, table.metric.scale) or dict.fromkeys(("mean", "std", "ci95", "n"))
        values |= {f"{name}_{key}": value for key, value in numbers.items()}
    for name in beside_headers(table):
        numbers = _score(row.beside.get(name), 1) or dict.fromkeys(("mean", "std", "ci95", "n"))
        values |= {f"{name}_{key}": value for key, value in numbers.items()}
    return values


def _facts(table: Table, row: Row) -> dict[str, Any]:
    low, high = row.num_seeds
    # tables of classification alone need no such columns
    judged = {"task": table.task, "metric": table.metric.name, "better": table.metric.better} if table.task else {}
    return judged | {
        "backbone": table.backbone,
        "protocol": table.protocol,
        "hyperparameters": table.choice,
        "split": table.split,
        "recipe": table.recipe,
        "method": row.method,
        "lr": row.rate or None,
        "changed": row.changed or None,
        "remark": row.remark,
        "published_by": " ".join(row.sources) or None,
        "complete": row.complete,
        "verdict": table.comparison.verdicts.get(row.method) if not row.sources else None,
        "average_rank": table.comparison.rank_of.get(row.method) if not row.sources else None,
        "num_seeds_min": low,
        "num_seeds_max": high,
        "params_method": row.params_method,
        "params_head": row.params_head,
        "memory_bytes": row.memory_bytes,
        "train_flops_per_image": row.train_flops_per_image,
        "forward_flops_per_image": row.forward_flops_per_image,
        "train_images_per_second": row.train_images_per_second,
        "eval_images_per_second": row.eval_images_per_second,
        "device": row.device,
        "ppt": row.ppt,
        # tables of images have no such columns
        **({} if row.order_gap is None else {"order_gap": table.metric.scale * row.order_gap}),
        **({} if row.top5_accuracy is None else {"top5_accuracy": table.metric.scale * row.top5_accuracy}),
    }


def _score(score: Score | None, scale: int) -> dict[str, Any] | None:
    if score is None:
        return None
    return {
        "mean": scale * score.mean,
        "std": None if score.std is None else scale * score.std,
        "ci95": None if score.interval is None else scale * score.interval,
        "n": score.n,
    }


def document(table: Table) -> dict[str, Any]:
    """One table as plain values: see `to_json`."""
    comparison = table.comparison
    friedman = comparison.friedman
    return {
        "title": table.title,
        "backbone": table.backbone,
        "protocol": table.protocol,
        "hyperparameters": table.choice,
        "suite": table.suite,
        "recipe": table.recipe,
        "short_recipe": table.short,
        "split": table.split,
        "columns": [vars(column) for column in table.columns],
        "means_over": [column.name for column in table.shared or table.columns],
        "rows": [
            {
                **_facts(table, row),
                "label": label(row),
                "cells": {
                    name: {**(_score(score, table.metric.scale) or {}), "records": list(row.records.get(name, ()))}
                    for name, score in row.cells.items()
                },
                "group_means": {name: _score(score, table.metric.scale) for name, score in row.group_means.items()},
                "mean_of_groups": _score(row.mean_of_groups, table.metric.scale),
                "flat_mean": _score(row.flat_mean, table.metric.scale),
                # tables of classification have none
                **({"beside": {name: _score(s, 1) for name, s in row.beside.items()}} if row.beside else {}),
                **({f"class_{of_classes(table.task)[0]}": dict(row.by_class)} if row.by_class else {}),
            }
            for row in all_rows(table)
        ],
        "comparison": {
            "methods": list(comparison.methods),
            "average_ranks": list(comparison.ranks),
            "friedman": None if friedman is None else {"statistic": friedman.statistic, "p": friedman.p},
            "nemenyi_critical_difference": comparison.critical_difference,
            "wilcoxon_holm_p": comparison.wilcoxon,
            "verdict_basis": comparison.basis,
            "p_against_best": dict(comparison.against_best),
        },
        "notes": notes(table),
    }
