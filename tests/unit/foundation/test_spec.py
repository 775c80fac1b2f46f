"""Options: ranges, conversion, and the rule that every problem is reported at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.foundation.errors import BadInput, ConfigError, did_you_mean
from peftbench.foundation.spec import Spec, build, defaults_of, describe, option


@dataclass(frozen=True)
class Oven(Spec):
    section: ClassVar[str] = "oven"

    degrees: int = option(180, ge=50, le=300)
    rate: float = option(0.5, gt=0, lt=1)
    mode: str = option("fan", choices=("fan", "grill"))
    racks: list[int] = option([1, 2], ge=1)
    timer: float | None = option(None, gt=0)
    light: bool = option(True)
    recipe: str | None = option(None, location=True)
    steam: int = option(0, ge=0, later=True)

    def problems(self) -> Sequence[str]:
        return (
            ["oven.mode=grill needs oven.degrees of 200 or more"] if self.mode == "grill" and self.degrees < 200 else []
        )


def problems_of(**values: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(Oven, values)
    return caught.value.problems


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"degrees": 49}, "oven.degrees must be at least 50, got 49"),
        ({"degrees": 301}, "oven.degrees must be at most 300, got 301"),
        ({"rate": 0.0}, "oven.rate must be greater than 0, got 0.0"),
        ({"rate": 1.0}, "oven.rate must be less than 1, got 1.0"),
        ({"mode": "gril"}, "oven.mode cannot be 'gril'; did you mean 'grill'?"),
        ({"racks": [1, 0]}, "oven.racks must be at least 1, got 0"),
        ({"degrees": "hot"}, "oven.degrees must be an integer, got 'hot'"),
        ({"degrees": 180.5}, "oven.degrees must be an integer, got 180.5"),
        ({"degrees": True}, "oven.degrees must be an integer, got True"),
        ({"degrees": None}, "oven.degrees must be an integer, got None"),
        ({"light": 1}, "oven.light must be true or false, got 1"),
        ({"racks": 3}, "oven.racks must be a list of integers, got 3; write oven.racks=[3]"),
        ({"racks": "low"}, "oven.racks must be a list of integers, got 'low'"),
        ({"timer": "soon"}, "oven.timer must be a number or null, got 'soon'"),
        ({"degress": 100}, "unknown option oven.degress; did you mean 'degrees'?"),
        ({"mode": "grill"}, "oven.mode=grill needs oven.degrees of 200 or more"),
    ],
)
def test_one_bad_value_gives_one_clear_line(values: dict[str, Any], message: str) -> None:
    assert problems_of(**values) == [message]


def test_all_problems_are_reported_together() -> None:
    found = problems_of(degrees=10, rate=2, mode="microwave", light="yes", colour="red")
    assert len(found) == 5
    assert all(any(word in line for line in found) for word in ("degrees", "rate", "mode", "light", "colour"))


def test_a_check_between_options_waits_until_each_is_valid_by_itself() -> None:
    assert problems_of(mode="grill", degrees=10) == ["oven.degrees must be at least 50, got 10"]


@pytest.mark.parametrize(
    ("given_value", "kept"),
    [
        ({"degrees": "200"}, 200),
        ({"degrees": 200.0}, 200),
        ({"rate": "0.25"}, 0.25),
        ({"timer": 3}, 3.0),
        ({"timer": None}, None),
        ({"racks": (2, "3")}, [2, 3]),
        ({"mode": "grill", "degrees": 250}, "grill"),
    ],
)
def test_values_are_converted_to_the_field_type(given_value: dict[str, Any], kept: Any) -> None:
    value = getattr(build(Oven, given_value), next(iter(given_value)))
    assert value == kept and type(value) is type(kept)


def test_lists_are_not_shared_between_instances() -> None:
    first, second = Oven(), Oven()
    first.racks.append(9)
    assert second.racks == [1, 2] == defaults_of(Oven)["racks"]


def test_identity_leaves_out_locations_and_later_fields_at_their_default() -> None:
    assert Oven(recipe="a.txt").identity() == Oven(recipe="b.txt").identity()
    assert "recipe" not in Oven().identity() and "steam" not in Oven().identity()
    assert Oven(steam=1).identity() == {**Oven().identity(), "steam": 1}


def test_a_spec_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Oven().degrees = 1  # type: ignore[misc]


@given(st.integers())
def test_an_integer_is_accepted_exactly_within_its_limits(degrees: int) -> None:
    if 50 <= degrees <= 300:
        assert build(Oven, {"degrees": degrees}) == Oven(degrees=degrees)
    else:
        assert len(problems_of(degrees=degrees)) == 1


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.lists(st.text()),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_any_value_is_converted_or_refused_and_never_crashes(value: Any) -> None:
    for field in dataclasses.fields(Oven):
        try:
            build(Oven, {field.name: value})
        except ConfigError as error:
            assert all(f"oven.{field.name}" in problem for problem in error.problems)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["rate", "timer", "degrees"])
def test_numbers_that_are_not_finite_are_refused(field: str, value: float) -> None:
    assert f"oven.{field}" in problems_of(**{field: value})[0]


def test_describe_words_types() -> None:
    assert describe(int | None) == "an integer or null"
    assert describe(list[str]) == "a list of words"


@dataclass(frozen=True)
class Pairs(Spec):
    """Lists and tuples of anything."""

    both: tuple = (1, "a")  # type: ignore[type-arg]
    some: list = option([])  # type: ignore[type-arg]


@dataclass(frozen=True)
class Placed(Spec):
    """A type that nothing on a command line can have."""

    place: Path | None = None


@dataclass(frozen=True)
class Unknown(Spec):
    """A type whose name is not there."""

    width: "Tensor" = 1  # type: ignore[name-defined]  # noqa: F821, UP037


def test_bare_lists_and_tuples_are_lists_of_anything() -> None:
    assert build(Pairs, {"both": [2, "b"], "some": (1, 2)}) == Pairs(both=(2, "b"), some=[1, 2])
    with pytest.raises(ConfigError, match="both must be a list, got 3"):
        build(Pairs, {"both": 3})


def test_a_field_of_a_type_that_no_option_can_have_names_its_file_and_what_can_be_taken() -> None:
    with pytest.raises(BadInput, match=r"test_spec\.py: Placed\.place: an option cannot be .*Path.*; take int, float,"):
        build(Placed, {})
    with pytest.raises(BadInput, match=r"test_spec\.py: the options of Unknown: name 'Tensor' is not defined"):
        build(Unknown, {})


def test_suggestions_name_near_words_or_list_what_is_known() -> None:
    assert did_you_mean("lroa", ["lora", "ssf"]) == "; did you mean 'lora'?"
    assert did_you_mean("LoRA", ["lora", "lora_xs"]) == "; did you mean 'lora'?"
    assert did_you_mean("zzz", ["ssf", "lora"]) == "; known: lora, ssf"
    assert did_you_mean("x", []) == ""
