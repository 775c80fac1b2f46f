"""Words are read as Hydra reads them; what it cannot read is taken as it stands or told how to quote."""

from __future__ import annotations

import pytest

from peftbench.config.choices import choices_of
from peftbench.config.gate import config_dir
from peftbench.config.overrides import option_values, parsed, quoted, readable, values_of, word_problems
from peftbench.config.words import problems_of
from peftbench.foundation.errors import ConfigError

AWKWARD = [
    "/a,b",
    "/a=b",
    "/a (1)",
    "/a[1]",
    "/a{1}",
    "~/bilder",
    "/ä ö",
    'a"b',
    "a'b",
    "a\\",
    "[x]",
    "#1",
    "a;b",
    "1,2",
]


@pytest.mark.parametrize("value", AWKWARD)
def test_the_quoting_that_messages_show_gives_the_value_as_it_stands(value):
    assert option_values([f"dataset.root={quoted(value)}"]) == {"dataset.root": value}


@pytest.mark.parametrize("value", ["~/bilder", "/a=b", "/a (1)", "/ä ö", "a;b", "/a[1]"])
def test_a_path_that_hydra_cannot_read_is_taken_as_it_stands(value):
    assert option_values([f"dataset.root={value}"]) == {"dataset.root": value}
    # so that Hydra itself reads it as well
    [word] = readable([f"dataset.root={value}"])
    assert parsed(word).value() == value


def test_the_word_shown_for_several_values_is_one_value():
    [problem] = word_problems(["dataset.root=/a,b"], config_dir(), ["dataset"])
    shown = problem.split("it is written '")[1].removesuffix("'")
    assert option_values([shown]) == {"dataset.root": "/a,b"}


def test_glob_stands_for_the_choices_that_match():
    choices = choices_of(config_dir() / "method")
    assert values_of("method=glob(lora*)", config_dir()) == ("method", [c for c in choices if c.startswith("lora")])
    in_folder = [choice for choice in choices_of(config_dir() / "dataset") if choice.startswith("vtab/d")]
    assert len(in_folder) > 2 and values_of("dataset=glob(vtab/d*)", config_dir()) == ("dataset", in_folder)


def test_a_choice_like_no_other_may_be_of_ones_own_and_a_misspelt_one_may_not(monkeypatch):
    monkeypatch.delenv("PEFTBENCH_PLUGINS", raising=False)
    where = "one of your own is read from the folders that PEFTBENCH_PLUGINS names"
    sections = ["method", "dataset", "optim"]
    assert word_problems(["method=xyzzy"], config_dir(), sections) == [f"method has no choice 'xyzzy'; {where}"]
    [dataset] = word_problems(["dataset=xyzzy"], config_dir(), sections)
    assert "; known: ade20k, " in dataset and dataset.endswith(f"; {where}")
    [misspelt] = word_problems(["method=lorra"], config_dir(), sections)
    assert misspelt.startswith("method has no choice 'lorra'; did you mean 'lora'") and "PLUGINS" not in misspelt


def test_every_unreadable_word_is_named():
    with pytest.raises(ConfigError) as stop:
        readable(["optim.lr=[1", "seed", "method=lora"])
    assert [problem.split("'")[1] for problem in stop.value.problems] == ["optim.lr=[1", "seed"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("method.name=lora", "method.name is no option; method=lora chooses the part with its own options"),
        ("+objective.name=gist", "objective.name is no option; objective=gist chooses"),
        ("task.name=depth", "task.name is no option; task=depth chooses"),
        ("dataset.kind=folder", "dataset.kind is no option; dataset=folder chooses"),
        ("launcher.kind=joblib", "launcher.kind is no option; launcher=joblib chooses"),
    ],
)
def test_a_part_is_chosen_with_its_options_and_not_by_its_name_alone(word: str, said: str) -> None:
    """LoRA under the learning rate of the method that was chosen would be neither."""
    assert said in problems_of([word])[0]
    assert problems_of(["optim.name=sgd"]) == []
