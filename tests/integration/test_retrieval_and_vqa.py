"""Cells whose samples have texts: retrieval by captions, and questions about pictures."""

from __future__ import annotations

import pytest

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
    capsys.readouterr()
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("method=coop",), 2, "brings task=text_classification along"),
        (("backbone=vit_micro",), 3, "choose a pair, such as backbone=pair_micro"),
        (("task=classification",), 2, "has captions for a target"),
        (("train.mixup=0.2",), 2, "set train.mixup=0"),
        (("dataset=named_shapes",), 2, "needs captions"),
    ],
)
def test_what_does_not_go_together_says_so(run, capsys, words, code, said):
    assert run(*CAPTIONS, *words, fast=False) == code
    assert said in capsys.readouterr().err
