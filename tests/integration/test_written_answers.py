"""A T5 in a folder, from words to a record: its answers, and what is refused ahead of training."""

from __future__ import annotations

from peftbench.data.sources.asked_shapes import VOCABULARY
from peftbench.records.store import Store
from tests.tiny_t5 import write_tiny_t5

CELL = ["task=vqa_written", "dataset=asked_shapes", "backbone.img_size=16", "train=smoke", "runtime.progress=false"]
SMALL = ["train.batch_size=250", "task.beams=1", "task.longest=2", "runtime.threads=1"]


def test_a_t5_answers_and_its_record_is_evaluated_exactly(run, results, tmp_path, capsys):
    write_tiny_t5(tmp_path / "t5", VOCABULARY, num_decoder_layers=2)
    words = (*CELL, *SMALL, "method.towers=[text]", "backbone.writer=t5")
    assert run(*words, "method=ssf", "protocol.merge=true", fast=False) == 3
    assert "ssf does not fold into T5LayerNorm" in capsys.readouterr().err
    assert run(*words, "method=vl_adapter", fast=False) == 0
    (record,) = Store(results).all()
    scores = record.metrics["test"]
    assert record.primary == "vqa_accuracy" and scores["n"] == 1000 and 0 <= scores["other_words"] <= 1
    assert record.params["method"] == 10 * (2 * 32 * 4 + 4 + 32) + 12 * 32
    capsys.readouterr()
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 1
    assert "backbone.writer=FOLDER" in capsys.readouterr().err
    assert run("evaluate", record.fingerprint, "backbone.writer=t5", "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
