"""Cells whose samples have texts: retrieval by captions, and questions about pictures."""

from __future__ import annotations

import pytest

from peftbench.boards.leaderboard import leaderboard
from peftbench.records.collect import collect
from peftbench.records.store import Store

SHORT = (
    "runtime.progress=false",
    "backbone=pair_micro",
    "train.epochs=1",
    "train.batch_size=50",
    "optim.warmup_epochs=0",
)
CAPTIONS = (*SHORT, "task=retrieval", "dataset=captioned_shapes", "protocol=vtab1k_tune")


def test_retrieval_is_trained_measured_and_restored(run, results, capsys):
    assert run(*CAPTIONS, "protocol.report_test=true", "method=lora", "method.towers=[image,text]", fast=False) == 0
    (record,) = Store(results).all()
    scores = record.metrics["test"]
    # a pool of 1,000 images with five captions each
    assert (record.primary, scores["n"], scores["num_texts"]) == ("mean_recall", 1000, 5000)
    assert scores["image_to_text_r1"] > 0.05 and scores["text_to_image_r10"] > scores["text_to_image_r1"] > 0.01
    assert record.params["method"] > 0 and record.params["head"] == 0
    [table] = leaderboard(collect([record]))
    assert table.rows[0].beside["text to image R@10"].mean == pytest.approx(100 * scores["text_to_image_r10"])
    assert len(table.rows[0].beside) == 6
    capsys.readouterr()
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_a_pair_in_which_nothing_trains_retrieves_as_it_is(run, results):
    assert run(*CAPTIONS, "protocol.report_test=true", "method=linear", fast=False) == 0
    (record,) = Store(results).all()
    assert record.curve == [] and record.params["trainable"] == 0 and record.metrics["test"]["mean_recall"] > 0.1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("method=coop",), 2, "brings task=text_classification along"),
        (("backbone=vit_micro",), 3, "choose a pair, such as backbone=pair_micro"),
        (("task=classification",), 2, "needs label; choose task=retrieval, or another dataset"),
        (("task=classification", "dataset=asked_shapes"), 2, "choose task=vqa or task=vqa_written, or another"),
        (("train.mixup=0.2",), 2, "set train.mixup=0"),
        (("dataset=named_shapes",), 2, "choose task=classification or task=text_classification, or"),
    ],
)
def test_what_does_not_go_together_says_so(run, capsys, words, code, said):
    assert run(*CAPTIONS, *words, fast=False) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fusion", "least"), [("read", 0.25), pytest.param("product", 0.2, marks=pytest.mark.thorough)]
)
def test_questions_are_answered_better_than_by_the_most_frequent_answer(run, results, capsys, fusion, least):
    words = (*SHORT, "task=vqa", f"task.fusion={fusion}", "dataset=asked_shapes", "method=lora", "method.towers=[text]")
    assert run(*words, "train.epochs=4", "optim.lr=0.01", "train.augment=none", fast=False) == 0
    (record,) = Store(results).all()
    scores = record.metrics["test"]
    assert (record.primary, scores["n"], scores["unanswerable"]) == ("vqa_accuracy", 1000, 0)
    assert scores["vqa_accuracy"] > least
    # the image tower is frozen, and looks at every picture once
    assert record.cost["kept"]["share"] > 0.2
    capsys.readouterr()
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
