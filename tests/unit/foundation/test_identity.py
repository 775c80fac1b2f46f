"""Fingerprints: equal content gives equal text, everywhere and for ever; any change gives another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.foundation.identity import canonical, fingerprint, group_fingerprint

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_fingerprint_is_the_start_of_the_sha256_of_canonical_json() -> None:
    text = '{"a":{"lr":0.001,"name":"lora"},"b":[1,2],"seed":0}'
    identity = {"seed": 0, "b": [1, 2], "a": {"name": "lora", "lr": 1e-3}}
    assert canonical(identity) == text
    assert fingerprint(identity) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_known_fingerprint_never_changes() -> None:
    # frozen: published records are found by it
    assert fingerprint({}) == "44136fa355b3678a"


def test_the_group_ignores_the_seed_and_nothing_else() -> None:
    base = {"method": "lora", "seed": 0}
    assert group_fingerprint(base) == group_fingerprint(base | {"seed": 1}) == fingerprint({"method": "lora"})
    assert group_fingerprint(base) != group_fingerprint(base | {"method": "ssf"})
    assert fingerprint(base) != fingerprint(base | {"seed": 1})


def test_a_seed_within_a_part_counts() -> None:
    assert group_fingerprint({"dataset": {"seed": 0}}) != group_fingerprint({"dataset": {"seed": 1}})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"lr": value})


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.randoms())
def test_order_and_a_trip_through_json_do_not_count(identity: dict[str, Any], chance: Any) -> None:
    shuffled = list(identity.items())
    chance.shuffle(shuffled)
    assert fingerprint(dict(shuffled)) == fingerprint(identity)
    assert fingerprint(json.loads(json.dumps(identity))) == fingerprint(identity)


@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=5), st.data())
def test_any_change_of_one_value_counts(identity: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(identity)))
    other = data.draw(
        VALUES.filter(lambda value: json.dumps(value, sort_keys=True) != json.dumps(identity[key], sort_keys=True))
    )
    assert fingerprint({**identity, key: other}) != fingerprint(identity)
