"""Records: what is written is what is read, and a wrong field is named."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peftbench.foundation.errors import RecordError
from peftbench.records.record import RunRecord
from tests.record_factory import make_record, record_values


def changed(path: str, value: Any) -> dict[str, Any]:
    """Valid field values with one of them, `part.key.key`, replaced."""
    values = copy.deepcopy(record_values())
    *parents, last = path.split(".")
    target = values
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    target[last] = value
    return values


def test_a_record_survives_its_file() -> None:
    record = make_record(method="lora (rank=16)", tuning={"num_trials": 4})
    assert RunRecord.from_json(record.to_json()) == record


@settings(max_examples=30, deadline=None)
@given(
    st.floats(min_value=0, allow_infinity=False, allow_nan=False),
    st.text(st.characters(), min_size=1),
    st.integers(min_value=0, max_value=2**40),
)
@example(seconds=0.1, text="caf\u00e9 \udc80", count=0)
def test_any_number_and_any_text_survive(seconds: float, text: str, count: int) -> None:
    values = record_values()
    values["provenance"]["seconds"] = seconds
    values["provenance"]["command"] = text
    values["cost"]["peak_bytes"] = count
    record = RunRecord(**values)
    # through bytes, as on disk: a command line may hold characters that are no valid text
    assert RunRecord.from_json(record.to_json().encode().decode()) == record


def test_the_text_is_plain_json_with_one_line_per_epoch() -> None:
    record = make_record()
    text = record.to_json()
    assert json.loads(text)["metrics"]["test"]["correct"] == 5000
    assert sum('"epoch"' in line and '"lr"' in line for line in text.splitlines()) == len(record.curve) == 2


def test_a_record_shows_itself_in_one_line() -> None:
    record = RunRecord(**record_values(accuracy=0.5, seed=2))
    shown = repr(record)
    assert shown.startswith(f"<RunRecord {record.fingerprint}: lora on cifar100 (vit_b16, seed 2): ")
    assert shown.endswith("test accuracy 50.00%>") and "\n" not in shown
    assert "test" not in repr(RunRecord(**record_values(accuracy=None))).rpartition(")")[2]


def test_the_fingerprint_is_that_of_the_identity() -> None:
    record = make_record(seed=3)
    plain = json.dumps(record.identity, sort_keys=True, separators=(",", ":"))
    assert record.fingerprint == hashlib.sha256(plain.encode()).hexdigest()[:16]
    with pytest.raises(RecordError, match=r"fingerprint is .*the identity gives"):
        RunRecord(**changed("identity.method.name", "vpt"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("labels.method", None, r"labels\.method must be a word, got None"),
        ("labels.group", "", r"labels\.group must be a word"),
        ("metrics.test.accuracy", 71.2, r"metrics\.test\.accuracy must be a fraction from 0 to 1, got 71\.2"),
        ("metrics.test.accuracy", 0.75, r"metrics\.test\.accuracy is 0\.75, not correct / n = 0\.5"),
        ("metrics.test.loss", float("nan"), r"metrics\.test\.loss must be a finite number"),
        ("metrics.test.n", 9_000, r"metrics\.test\.(accuracy|n) is"),
        ("data.splits.test.n", 9_000, r"metrics\.test\.n is 10000, but data\.splits\.test has 9000"),
        ("data.splits.test", None, r"metrics\.test\.n is 10000, but data\.splits\.test has null"),
        ("params.method", 1.5, r"params\.method must be a whole number"),
        ("params.trainable", 1, r"params\.trainable is 1, not method \+ head = 366900"),
        ("params.share", 0.5, r"params\.share is 0\.5, not method / backbone"),
        ("cost.peak_bytes", -1, r"cost\.peak_bytes must be a whole number from 0 to 2\^63 - 1 or null, got -1"),
        ("cost.memory.total_bytes", "12", r"cost\.memory\.total_bytes must be a whole number"),
        ("cost.device", 7, r"cost\.device must be a word or null"),
        ("curve", {}, r"curve must be a list"),
        ("curve.0.lr", None, r"curve\[0\]\.lr must be a number"),
        ("curve.1.epoch", 1, r"curve must hold each epoch once, in order"),
        ("seed", 1, r"seed is 1, but identity\.seed is 0"),
        ("seed", True, r"seed must be a whole number"),
        ("primary", "acuracy", r"primary is 'acuracy'.*did you mean 'accuracy'"),
        ("provenance.git_dirty", "no", r"provenance\.git_dirty must be true or false or null"),
        ("predictions", {"sha256": "a", "file": None}, r"predictions\.n missing"),
        ("tuning", [1], r"tuning must be an object or null"),
        ("config", {"size": {1, 2}}, r"config cannot be written as JSON"),
        ("config", {"size": float("inf")}, r"config cannot be written as JSON"),
        ("schema", 2, r"schema must be 1, got 2"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        RunRecord(**changed(path, value))


@pytest.mark.parametrize("path", ["cost.peak_bytes", "cost.memory", "cost.device", "weights.digest", "metrics.test"])
def test_unknown_is_null(path: str) -> None:
    record = RunRecord(**changed(path, None))
    assert RunRecord.from_json(record.to_json()) == record


def test_further_keys_inside_a_part_are_kept() -> None:
    record = RunRecord(**changed("cost.energy_joules", 12.5))
    assert RunRecord.from_json(record.to_json()).cost["energy_joules"] == 12.5


def test_an_unknown_schema_says_which_version_reads_it() -> None:
    values = record_values() | {"schema": 7, "novelty": 1}
    values["provenance"]["version"] = "9.2.0"
    with pytest.raises(RecordError, match=r"schema 7 is unknown here .*reads schema 1.*peftbench 9\.2\.0"):
        RunRecord.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema": NaN}', "NaN is not a JSON number"),
        ("[1]", "no JSON object"),
        ('{"name": "x"}', "schema missing"),
        ('{"schema": 1, "seed": 0}', "fingerprint, identity, .* missing"),
        ('{"schema": true}', "schema True is unknown"),
    ],
)
def test_a_foreign_file_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        RunRecord.from_json(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecordError, match=r"unknown field metric; did you mean 'metrics'"):
        RunRecord.from_json(json.dumps(record_values() | {"metric": 1}))


def test_a_number_too_large_for_a_float_is_refused() -> None:
    text = make_record().to_json().replace('"loss": 1.5', '"loss": 1e999')
    with pytest.raises(RecordError, match=r"metrics\.test\.loss must be a finite number"):
        RunRecord.from_json(text)
