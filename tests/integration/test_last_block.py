"""Cells with `train.last_block=read`: what the record says, the same bits again, and numbers near the whole block's."""

from __future__ import annotations

import pytest

from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.integration.conftest import FEW

READ = "train.last_block=read"


def record_of(run, results, *words: str) -> RunRecord:
    assert run(*FEW, "train.epochs=2", *words, "runtime.on_existing=rerun", fast=False) == 0
    return max(Store(results).all(), key=lambda found: found.provenance["started"])


@pytest.mark.parametrize("words", [("method=vpt_deep",), ("method=bitfit", "protocol.merge=true")], ids=["", "merged"])
def test_a_cell_is_that_of_the_whole_block_to_rounding(run, results, words):
    whole, cut = record_of(run, results, *words), record_of(run, results, *words, READ)
    assert "last_block" not in whole.cost
    assert cut.cost["last_block"] == {"read": ["mlp", "attn.proj", "norm.2", "norm.final"]}
    assert cut.fingerprint != whole.fingerprint and cut.identity["train"]["last_block"] == "read"
    for one, other in zip(cut.curve, whole.curve, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert cut.cost["train_flops_per_image"] < 0.95 * whole.cost["train_flops_per_image"]
    assert cut.cost["memory"]["saved_bytes"] < whole.cost["memory"]["saved_bytes"]
    again = record_of(run, results, *words, READ)
    assert again.curve == cut.curve and again.metrics == cut.metrics


def test_a_method_that_reads_all_tokens_is_run_whole_and_the_record_and_a_line_say_so(run, results, capsys):
    record = record_of(run, results, "method=dtl", READ, "runtime.progress=true")
    assert record.cost["last_block"] == {"why": "other tokens of the last block are read as well"}
    assert "train.last_block=read spares nothing here: other tokens" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("train.recompute=true",), ("method=linear",), ("method=partial_k",)], ids=str)
def test_it_goes_with_blocks_that_are_computed_again_and_with_frozen_work(run, results, words):
    method = () if words[0].startswith("method") else ("method=vpt_deep",)
    plain = record_of(run, results, *method, *(word for word in words if word.startswith("method")), READ)
    found = record_of(run, results, *method, *words, READ, "runtime.feature_cache=auto")
    off = record_of(run, results, *method, *words, READ, "runtime.feature_cache=off", "train.cache_features=true")
    assert found.curve == off.curve == plain.curve


@pytest.mark.parametrize(
    "words",
    [(), ("protocol.merge=true",), ("train.frozen_bf16=true",), ("train.frozen_bf16=true", "protocol.merge=true")],
    ids=str,
)
@pytest.mark.parametrize("last", ["all", "read"])
def test_its_predictions_in_bf16_are_made_again(run, results, capsys, last, words):
    """Rounded to bf16 the whole block predicts otherwise here and there, so the block has to run as it ran."""
    bf16 = ("method=repadapter", "train.precision=bf16", f"train.last_block={last}", *words)
    record = record_of(run, results, *bf16)
    assert record.cost["memory"]["total_bytes"] > 0 and record.cost["forward_flops_per_image"] > 0
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out
