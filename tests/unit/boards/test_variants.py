"""Naming what differs between two settings."""

from __future__ import annotations

from peftbench.boards.variants import describe, differing, extend_label, flatten


def test_flatten_joins_names_with_dots() -> None:
    assert flatten({"optim": {"lr": 0.1, "betas": [0.9, 0.999]}, "seed": 0, "tuning": {}}) == {
        "optim.lr": 0.1,
        "optim.betas": [0.9, 0.999],
        "seed": 0,
        "tuning": {},
    }


def test_only_unequal_options_differ() -> None:
    settings = [{"a": 1, "b": [1, 2], "c": "x"}, {"a": 1, "b": [1, 3], "d": None}]
    assert differing(settings) == ["b", "c", "d"]
    assert differing(settings[:1]) == []
    assert differing([{"a": 1}, {"a": "1"}]) == ["a"]


def test_options_are_described_in_words() -> None:
    setting = {"optim.lr": 0.01, "optim.betas": [0.9, 0.99], "name": "x", "clip": None, "on": True}
    names = ["clip", "name", "on", "optim.betas", "optim.lr", "rank"]
    assert describe(setting, names) == "clip=null, name=x, on=true, optim.betas=[0.9,0.99], optim.lr=0.01, rank=unset"


def test_a_digest_is_cut_to_what_tells_it_apart() -> None:
    assert describe({"weights": "sha256:" + "0123456789abcdef" * 4}, ["weights"]) == "weights=sha256:0123456789ab"


def test_a_label_keeps_its_own_departures() -> None:
    assert extend_label("lora", "") == "lora"
    assert extend_label("lora", "optim.lr=0.01") == "lora (optim.lr=0.01)"
    assert extend_label("lora (rank=16)", "optim.lr=0.01") == "lora (rank=16, optim.lr=0.01)"
