"""Who has an option: for words that lack their section, and for choices that lack the option."""

from __future__ import annotations

from peftbench.config.having import had_by, having
from peftbench.config.parts import NAMED, outlined
from peftbench.config.words import with_section


def test_an_option_is_written_with_every_section_that_has_it() -> None:
    assert with_section("shots_seed") == ["protocol.shots_seed"]
    assert with_section("max_requeues") == ["launcher.max_requeues"]
    assert with_section("num_train") == ["dataset.num_train"]
    assert with_section("rank") == ["method.rank"]
    # named sections first, those of one class behind them
    assert with_section("temperature") == ["method.temperature", "objective.temperature"]
    assert with_section("num_workers")[0] == "launcher.num_workers"
    assert with_section("nonsense") == []


def test_who_has_an_option_is_named_for_methods_and_launchers() -> None:
    assert having("launcher", "num_workers") == ("joblib", "ray", "slurm")
    assert having("objective", "nonsense") == ()
    assert had_by("unknown option launcher.max_requeues") == "; launcher=slurm has it"
    assert had_by("unknown option launcher.cpus_per_worker") == "; launcher=ray, slurm have it"
    # more have it than a line holds
    others = len(having("method", "rank")) - 5
    assert had_by("unknown option method.rank").endswith(f" and {others} more have it") and others > 5
    # kinds of data sets are no words that choose one
    assert had_by("unknown option dataset.num_train") == had_by("unknown option method.nonsense") == ""


def test_parts_without_an_outline_are_the_registered_ones() -> None:
    for section in ("dataset", "launcher"):
        registry = NAMED[section][1]()
        assert {name: outlined(section, name) for name in registry.names()} == {
            name: registry.get(name) for name in registry.names()
        }
