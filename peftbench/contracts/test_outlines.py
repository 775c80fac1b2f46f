"""Every method and objective can be planned without torch: its outline has the same options, facts and checks."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, get_origin, get_type_hints

import pytest

from peftbench.config.parts import LOADED, loaded, outlined
from peftbench.foundation.spec import Spec

# a plug-in's part has no outline: it is loaded to be planned
PARTS = [
    (section, name)
    for section, registry in LOADED.items()
    for name in registry().names()
    if registry().get(name).__module__.startswith("peftbench.")
]


def facts(cls: type[Spec]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {name: getattr(cls, name) for name, hint in hints.items() if get_origin(hint) is ClassVar}


def options(cls: type[Spec]) -> list[Any]:
    hints = get_type_hints(cls)
    return [
        (field.name, hints[field.name], field.default, field.default_factory is dataclasses.MISSING, limits(field))
        for field in dataclasses.fields(cls)
    ]


def limits(field: dataclasses.Field[Any]) -> dict[str, Any]:
    return {key: value() if callable(value) else value for key, value in field.metadata.items()}


@pytest.mark.parametrize(("section", "name"), PARTS)
def test_an_outline_is_the_part_but_for_its_work(section: str, name: str) -> None:
    whole, brief = loaded(section, name), outlined(section, name)
    assert brief is not whole, f"{name} cannot be planned without torch; its options or facts hang on a heavy import"
    assert facts(brief) == facts(whole) and options(brief) == options(whole)
    assert dataclasses.asdict(brief()) == dataclasses.asdict(whole())
    assert (brief().label, brief().remark) == (whole().label, whole().remark)  # type: ignore[attr-defined]
