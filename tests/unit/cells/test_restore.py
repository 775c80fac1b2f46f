"""What a record says where its inputs are not here."""

from types import SimpleNamespace

import pytest

from peftbench.cells.restore import record_config
from peftbench.config.compose import Trees
from peftbench.foundation.errors import MissingInput


@pytest.mark.parametrize(
    ("words", "asked_for"),
    [
        (["dataset=folder"], "set dataset.root=<folder of class folders>"),
        (["dataset=vtab/dtd", "dataset.root=nowhere"], "no task folder in"),
    ],
)
def test_a_record_asks_for_its_own_data_and_advises_no_other(words, asked_for, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    record = SimpleNamespace(config=Trees().of(words), provenance={"machine": {}})
    with pytest.raises(MissingInput) as caught:
        record_config(record, [])
    assert asked_for in str(caught.value)
    assert "needs no files" not in str(caught.value)
