"""Options that an identity leaves out are said with their defaults where another setting names them."""

from __future__ import annotations

import json
from typing import Any

from peftbench.config.left_out import completed


def sections(*settings: dict[str, Any]) -> list[dict[str, Any]]:
    texts = [json.dumps(setting) for setting in settings]
    found = completed([*texts, *texts])
    return [json.loads(found[text]) for text in texts]


def test_an_option_that_came_later_has_its_default_where_another_setting_names_it() -> None:
    cut = {"train": {"epochs": 2, "last_block": "read"}, "method": {"name": "lora", "rank": 4, "scaling": "rank_root"}}
    whole = {"train": {"epochs": 2}, "method": {"name": "lora", "rank": 4}}
    assert sections(cut, whole) == [
        cut,
        {"train": {"epochs": 2, "last_block": "all"}, "method": {"name": "lora", "rank": 4, "scaling": "rank"}},
    ]


def test_what_no_other_names_stays_out_and_so_does_what_another_part_has() -> None:
    lora = {"method": {"name": "lora", "rank": 4, "up_rate": 2.0}, "membership": "full"}
    ssf = {"method": {"name": "ssf"}, "dataset": {"kind": "digits", "seed": 0}}
    assert sections(lora, ssf) == [lora, ssf]


def test_a_part_that_is_not_here_and_facts_that_are_no_options_stay_as_they_are() -> None:
    one = {"method": {"name": "of_a_plug_in", "width": 3}, "train": {"of_a_later_version": 1}, "tuning": None}
    other = {"method": {"name": "of_a_plug_in"}, "train": {}}
    assert sections(one, other) == [one, other]
