"""Image and text from words to records: zero-shot and CoOp on the embedded pair."""

from __future__ import annotations

import pytest

from peftbench.records.store import Store

CELL = ["backbone=pair_micro", "protocol=fewshot_coop", "runtime.progress=false"]


@pytest.fixture
def tested(run, results):
    """`tested("method=...")` is the record of a cell on the embedded pair."""

    def record(*words):
        known = {record.fingerprint for record in Store(results).all()}
        assert run(*CELL, *words, fast=False) == 0
        return next(record for record in Store(results).all() if record.fingerprint not in known)

    return record


def test_coop_of_sixteen_shots_learns_and_is_reproduced(tested, run, results, capsys):
    plain = tested("method=zero_shot", "dataset=digits")
    assert plain.params["trainable"] == 0 and plain.curve == []
    recipe = ["train=coop", "train.augment=none", "train.epochs=5", "method.words='a photo of a'"]
    coop = tested("method=coop", "dataset=digits", *recipe, "seed=1")
    assert coop.params["trainable"] == 4 * 96 and coop.params["head"] == 0
    assert coop.curve[-1]["loss"] < coop.curve[0]["loss"] and coop.metrics["test"]["accuracy"] > 0.9
    assert run("evaluate", coop.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
    assert run("export", coop.fingerprint, "coop.safetensors", "--results", str(results), fast=False) == 3
    assert "reads texts as well" in capsys.readouterr().err


def test_coop_beats_zero_shot_where_pictures_look_as_the_pair_never_saw_them(tested):
    look = ["dataset=named_shapes", "dataset.look=negative", "dataset.classes=seen"]
    plain = tested("method=zero_shot", *look)
    recipe = ["train.epochs=8", "train.batch_size=32", "train.augment=none", "optim.lr=0.1", "seed=1"]
    coop = tested("method=coop", "method.class_specific=true", *recipe, *look)
    assert coop.metrics["test"]["accuracy"] > plain.metrics["test"]["accuracy"] + 0.2


def test_the_embedded_pair_names_pairs_of_words_that_it_never_saw_together(tested):
    held_out = tested("method=zero_shot", "dataset=named_shapes", "dataset.classes=held_out")
    assert held_out.data["classes"] == 16 and held_out.metrics["test"]["accuracy"] > 3 / 16


def test_images_alone_and_unknown_words_are_refused_in_one_line(run, capsys):
    assert run("method=coop", "backbone=vit_micro", "dataset=named_shapes", fast=False) == 3
    assert "choose a pair" in capsys.readouterr().err
    assert run("method=zero_shot", "backbone=pair_micro", "dataset=shapes_orientation", fast=False) == 2
    assert "does not know 'degrees'" in capsys.readouterr().err
    lora = ("backbone=pair_micro", "method=lora", "method.towers=[text,image]", "dataset=named_shapes", "train=smoke")
    assert run(*lora, fast=False) == 2
    assert "['image', 'text']: task=classification reads images alone; set task=text_" in capsys.readouterr().err


def test_tasks_are_trained_together_and_measured_apart(run, results, capsys):
    few = ["backbone=pair_micro", "protocol=fewshot_coop", "protocol.shots=2", "train.epochs=2", "train.batch_size=32"]
    words = ["runtime.progress=false", *few, "dataset=domain_shapes", "method=hipro", "method.num_tokens=2"]
    assert run(*words, "task.apart=true", fast=False) == 0
    (record,) = Store(results).all()
    scores = record.metrics["test"]
    each = [scores[f"accuracy/{task}"] for task in ("plain", "sodium", "negative")]
    assert record.primary == "mean_accuracy" and scores["mean_accuracy"] == pytest.approx(sum(each) / 3)
    # what the pair was pretrained on it knows among 16 classes, whatever the other tasks are
    assert each[0] > 0.7 and record.params["method"] == 5 * 2 * 96
    assert run(*words, fast=False) == 2
    assert "this data has several tasks; set task.apart=true" in capsys.readouterr().err
    learned = [*few, "dataset=domain_shapes", "task.apart=true", "method=coop", "objective=kgcoop"]
    assert run(*learned, fast=False) == 3
    assert "kgcoop compares an image with the classes of all tasks" in capsys.readouterr().err
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
