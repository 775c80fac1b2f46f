"""Suites: one word gives the datasets of a benchmark."""

import pytest

from peftbench.data.suites import SUITES, suite
from peftbench.foundation.errors import ConfigError


def test_vtab_is_its_three_groups_in_order():
    groups = [suite(f"vtab/{group}") for group in ("natural", "specialized", "structured")]
    assert [len(names) for names in groups] == [7, 4, 8]
    assert suite("vtab") == groups[0] + groups[1] + groups[2]
    assert suite("vtab/specialized") == [
        f"vtab/{task}" for task in ("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy")
    ]


def test_the_other_suites_have_their_published_number_of_datasets():
    assert {name: len(suite(name)) for name in ("fgvc", "fewshot", "fewshot_clip", "dense", "micro", "video")} == {
        "fgvc": 5,
        "fewshot": 5,
        "fewshot_clip": 11,
        "dense": 7,
        "micro": 4,
        "video": 2,
    }
    assert all(len(set(names)) == len(names) for names in SUITES.values())


def test_the_caller_gets_a_list_of_its_own():
    suite("micro").clear()
    assert suite("micro")[0] == "digits"


def test_an_unknown_suite_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'vtab/natural'"):
        suite("vtab/naturel")
