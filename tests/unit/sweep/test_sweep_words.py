"""The words of a sweep before Hydra sees them."""

from __future__ import annotations

import pytest

from peftbench.foundation.errors import ConfigError
from peftbench.methods.base import METHODS
from peftbench.sweep.grid import expanded


def values(words: list[str], key: str) -> set[str]:
    (word,) = [word for word in expanded(words) if word.startswith(f"{key}=")]
    return set(word.partition("=")[2].split(","))


def test_all_methods_by_one_word_beside_other_words() -> None:
    words = ["method=all", "dataset=digits", "seed=0,1"]
    assert values(words, "method") >= set(METHODS.names())
    assert expanded(words)[1:] == words[1:]


def test_a_suite_stands_for_its_datasets_unless_one_is_named() -> None:
    assert values(["+suite=micro", "method=linear"], "dataset") >= {"digits", "shapes_count"}
    assert values(["+suite=micro", "dataset=digits"], "dataset") == {"digits"}


def test_a_suite_brings_its_task_unless_one_is_named() -> None:
    assert values(["+suite=dense", "method=linear"], "task") == {"segmentation"}
    assert values(["+suite=dense", "task=depth", "dataset=scenes"], "task") == {"depth"}
    assert not any(word.startswith("task=") for word in expanded(["+suite=micro"]))
    with pytest.raises(ConfigError, match="suites of different tasks"):
        expanded(["+suite=dense,micro"])
