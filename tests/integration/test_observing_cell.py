"""Cells of methods that look at the training images first: recorded, and restored without a second look."""

from __future__ import annotations

import pytest

from peftbench.adapters.file import read_adapter
from peftbench.methods.base import METHODS
from peftbench.records.store import Store


# 13 norms of 128 channels train in ttc as well
@pytest.mark.parametrize(("name", "further"), [("sct", 0), ("ttc", 13 * 2 * 128)])
def test_a_cell_is_restored_from_what_was_found(run, results, monkeypatch, capsys, name, further):
    assert run(f"method={name}") == 0
    (record,) = Store(results).all()
    tensors, _ = read_adapter(Store(results).adapter_path(record.fingerprint))
    # 16 of 128 channels in each of six blocks
    assert record.params["method"] == 6 * (16 * 16 + 16) + further
    found = record.selection["found"]["channels"]
    assert [tensors[f"findings.{layer}"].tolist() for layer in range(6)] == found and len(found[0]) == 16
    assert record.cost["observe_seconds"] > 0
    monkeypatch.setattr(METHODS.get(name), "observe", lambda *_: pytest.fail("a restored cell does not look again"))
    assert run("evaluate", record.fingerprint, "--results", str(results), fast=False) == 0
    assert "reproduced exactly" in capsys.readouterr().out


def test_a_search_never_builds_the_test_split(run, results, monkeypatch):
    from peftbench.data.sources.digits import DigitsSource

    asked: list[str] = []
    original = DigitsSource.split
    monkeypatch.setattr(DigitsSource, "split", lambda self, name: asked.append(name) or original(self, name))
    words = ["method=noah_supernet", "method.supernet_epochs=1", "method.population=2", "method.generations=1"]
    words += ["protocol=vtab1k_tune", "train.epochs=1", "optim.warmup_epochs=0", "runtime.measure_cost=false"]
    assert run(*words) == 0
    assert set(asked) == {"train800", "val200"}
    (record,) = Store(results).all()
    assert {name: len(sizes) for name, sizes in record.selection["found"].items()} == {
        "prompts": 6,
        "lora_ranks": 6,
        "adapter_widths": 6,
    }
