"""A record's files are its own, whoever else ran its cell."""

from __future__ import annotations

import io

import numpy as np
import pytest

from peftbench.foundation.errors import MissingInput, RecordError
from peftbench.records.owned import Attempt, own_adapter, own_predictions, predictions_bytes
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.record_factory import make_record


def run(store: Store, adapter: bytes, replace: bool = False) -> RunRecord:
    """One host's run of the same cell: it writes its files and then puts its record."""
    files = Attempt()
    plain = make_record()
    values = dict(vars(plain))
    classes = np.arange(plain.metrics["test"]["n"]) % 4
    values["adapter"] = {"file": None, "sha256": files.write(store.adapter_path(plain.fingerprint), adapter)}
    digest = files.write(store.predictions_path(plain.fingerprint), predictions_bytes(classes))
    values["predictions"] = {"file": None, "sha256": digest, "n": len(classes)}
    record = RunRecord(**values)
    with files.kept_after():
        store.put(record, replace=replace)
    return record


def names(store: Store) -> list[str]:
    return sorted(path.name for kind in ("adapters", "predictions") for path in (store.work_folder / kind).iterdir())


def test_the_loser_of_two_hosts_leaves_the_files_of_the_winner_alone(tmp_path):
    store = Store(tmp_path)
    winner = run(store, b"winner")
    with pytest.raises(RecordError, match="already holds this cell"):
        run(store, b"loser")
    assert own_adapter(store, winner).read_bytes() == b"winner"
    assert names(store) == sorted([f"{winner.fingerprint}.npy", f"{winner.fingerprint}.safetensors"])
    again = run(store, b"again", replace=True)
    assert own_adapter(store, again).read_bytes() == b"again"
    with pytest.raises(RecordError, match=r"is not the file that record .* was made with"):
        own_adapter(store, winner)


def test_files_of_a_host_that_died_after_its_record_was_put_are_found(tmp_path):
    store = Store(tmp_path)
    record = run(store, b"mine")
    path = store.adapter_path(record.fingerprint)
    path.rename(path.with_name(f"{path.stem}.0123456789ab{path.suffix}"))
    assert own_adapter(store, record).read_bytes() == b"mine"
    path.write_bytes(b"foreign")
    assert own_adapter(store, record).read_bytes() == b"mine"


def test_an_adapter_committed_beside_its_record_is_found_where_no_own_one_is(tmp_path):
    store = Store(tmp_path)
    record = run(store, b"mine")
    shipped = store.shipped(record.fingerprint, ".safetensors")
    shipped.parent.mkdir()
    shipped.write_bytes(b"foreign")
    assert own_adapter(store, record).read_bytes() == b"mine"
    store.adapter_path(record.fingerprint).unlink()
    with pytest.raises(MissingInput, match="there is no adapter at"):
        own_adapter(store, record)
    shipped.write_bytes(b"mine")
    assert own_adapter(store, record) == shipped


def test_what_is_not_here_is_said(tmp_path):
    store = Store(tmp_path)
    record = run(store, b"mine")
    assert own_predictions(store, record).tolist()[:5] == [0, 1, 2, 3, 0]
    store.adapter_path(record.fingerprint).unlink()
    store.predictions_path(record.fingerprint).unlink()
    assert own_predictions(store, record) is None
    with pytest.raises(MissingInput, match=r"there is no adapter at .*; copy it there, or run the cell again"):
        own_adapter(store, record)
    with pytest.raises(MissingInput, match="made without keeping its adapter"):
        own_adapter(store, RunRecord(**{**vars(record), "adapter": None}))


@pytest.mark.parametrize("classes", [np.array([{}], dtype=object), np.zeros(3, np.int64), None])
def test_predictions_of_another_kind_are_one_line(tmp_path, classes):
    store = Store(tmp_path)
    plain, files, buffer = make_record(), Attempt(), io.BytesIO()
    np.save(buffer, classes, allow_pickle=True) if classes is not None else buffer.write(b"not npy")
    with files.kept_after():
        digest = files.write(store.predictions_path(plain.fingerprint), buffer.getvalue())
    record = RunRecord(
        **{**vars(plain), "predictions": {"file": None, "sha256": digest, "n": plain.metrics["test"]["n"]}}
    )
    with pytest.raises(RecordError, match=r"\.npy: not (the )?predicted classes"):
        own_predictions(store, record)
