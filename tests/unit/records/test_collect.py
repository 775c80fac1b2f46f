"""Records as rows: one per record, scalars only, unknown stays unknown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

import peftbench.records
from peftbench.records.collect import COLUMNS, collect
from peftbench.records.record import RunRecord
from tests.record_factory import make_record, record_values


def test_one_row_holds_the_numbers_of_its_record() -> None:
    record = make_record(method="lora (rank=16)", accuracy=0.7123, seed=2, method_params=589_824, speed=50.0)
    frame = collect([record])
    [row] = frame.to_dict("records")
    assert tuple(frame.columns) == COLUMNS
    expected = {
        "fingerprint": record.fingerprint,
        "backbone": "vit_b16",
        "method": "lora (rank=16)",
        "dataset": "cifar100",
        "group": "natural",
        "protocol": "vtab1k",
        "seed": 2,
        "hyperparameters": "paper defaults",
        "task": "classification",
        "metric": "accuracy",
        "better": "higher",
        "unit": "fraction",
        "score": 0.7123,
        "num_test_images": 10_000,
        "params_method": 589_824,
        "params_head": 76_900,
        "memory_bytes": 4_000_000,
        "train_images_per_second": 50.0,
        "eval_images_per_second": 150.0,
        "train_flops_per_image": 1e11,
        "train_seconds": 60.0,
        "membership": "vtab1k-official:folder",
        "device": "cpu",
    }
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["setting"]) == {key: value for key, value in record.identity.items() if key != "seed"}


def test_every_cell_is_a_scalar_and_unknown_is_none() -> None:
    frame = collect([make_record(accuracy=None, memory_bytes=None, speed=None)])
    [row] = frame.to_dict("records")
    unknown = (
        "score",
        "mean_class_accuracy",
        "num_test_images",
        "memory_bytes",
        "peak_bytes",
        "train_images_per_second",
    )
    assert [row[name] for name in unknown] == [None] * len(unknown)
    assert all(value is None or isinstance(value, (str, int, float)) for value in row.values())


def test_repetitions_share_a_group_and_nothing_else_does() -> None:
    same = collect([make_record(seed=seed) for seed in range(3)])
    assert same["repetition_group"].nunique() == 1
    assert same["fingerprint"].nunique() == 3
    other = collect([make_record(), make_record(options={"optim": {"lr": 0.1}}), make_record(dataset="dtd")])
    assert other["repetition_group"].nunique() == 3


def test_the_order_of_records_does_not_matter() -> None:
    records = [make_record(seed=seed, dataset=dataset) for seed in range(3) for dataset in ("dtd", "eurosat")]
    pd.testing.assert_frame_equal(collect(records), collect(reversed(records)))


def test_no_records_give_no_rows_but_all_columns() -> None:
    assert collect([]).shape == (0, len(COLUMNS))


def test_a_search_that_left_its_usual_rates_unsaid_is_told_from_the_search_of_today() -> None:
    before, now, named = (
        make_record(tuning={"label": f"tuned (budget 12, random{words})", "lr": rates})
        for words, rates in (("", [1e-4, 3e-2]), ("", None), (", lr=[0.001, 0.1]", [1e-3, 1e-1]))
    )
    frame = collect([before, now, named])
    assert sorted(frame["hyperparameters"]) == [
        "tuned (budget 12, random)",
        "tuned (budget 12, random, lr=[0.0001, 0.03])",
        "tuned (budget 12, random, lr=[0.001, 0.1])",
    ]


def test_a_record_says_how_its_hyperparameters_were_chosen() -> None:
    tuned = make_record(tuning={"label": "tuned (budget 12, random)"})
    published = make_record(seed=1, hparams={"label": "published (x)", "chosen_on": "test", "replaced": {"a.b": 1}})
    frame = collect([tuned, published]).sort_values("seed")
    assert list(frame["hyperparameters"]) == ["tuned (budget 12, random)", "published (x)"]
    assert list(frame["replaced"]) == ["{}", '{"a.b":1}']


def test_counts_stay_exact() -> None:
    values = record_values()
    values["cost"]["peak_bytes"] = 2**60 + 1
    frame = collect([RunRecord(**values), make_record(seed=1)])
    assert 2**60 + 1 in list(frame["peak_bytes"])


def test_results_need_neither_torch_nor_hydra() -> None:
    """A laptop without them regenerates the leaderboard."""
    blocked = ("torch", "timm", "hydra", "omegaconf", "datasets", "peftbench.methods", "peftbench.data")
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == gone or name.startswith(gone + ".") for gone in {blocked!r}):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import peftbench.cli.commands.leaderboard, peftbench.boards.render, peftbench.records.store
"""
    folder = Path(peftbench.records.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
