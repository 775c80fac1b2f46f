"""Bad values for every option of every part, made from the options' own types and limits."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

from peftbench.config.gate import FIXED
from peftbench.config.parts import NAMED
from peftbench.foundation.spec import Spec
from tests.bad_inputs.table import Case

HUGE = "1e30"


def generated() -> list[Case]:
    """One command for each kind of fault and each part; every wrong option in it is one bad input."""
    cases = []
    parts: list[tuple[tuple[str, ...], type[Spec]]] = [((), cls) for name, cls in FIXED.items() if name != "hparams"]
    for section in ("method", "objective", "launcher"):
        parts += [((f"{section}={name}",), cls) for name, cls in _chosen(section)]
    for chosen, cls in parts:
        for fault in ("null", "list", "word", "huge", "nan", "misspelt"):
            wrong = list(_wrong(cls, fault))
            if wrong:
                words = tuple(f"{cls.section}.{word}" for word, _ in wrong)
                wanted = tuple(f"{cls.section}.{part}" for _, part in wrong)
                cases.append(Case((*chosen, *words), 2, wanted, len(wrong)))
    return cases


def _chosen(section: str) -> Iterator[tuple[str, type[Spec]]]:
    """Some classes of a section: the first of each set of options."""
    _, registry = NAMED[section]
    seen: set[frozenset[str]] = set()
    for name in registry().names():
        cls = registry().get(name)
        fields = frozenset(field.name for field in dataclasses.fields(cls))
        if fields and fields not in seen and len(seen) < 6:
            seen.add(fields)
            yield _choice(section, name), cls


def _choice(section: str, name: str) -> str:
    """The yaml that chooses a class; the same name for the parts used here."""
    return name


def _wrong(cls: type[Spec], fault: str) -> Iterator[tuple[str, str]]:
    """(word without its section, part of the answer) for every option of a class that the fault is one for."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name, kinds = field.name, _kinds(hints[field.name])
        number, must = bool(kinds & {int, float}), f"{field.name} must be"
        if fault == "misspelt":
            yield f"{name}x=1", f"{name}x; did you mean"
        elif fault == "null" and type(None) not in kinds:
            yield f"{name}=null", must
        elif fault == "list" and list not in kinds and dict not in kinds:
            yield f"{name}=[a,{{b:c}}]", must
        elif fault == "word" and kinds <= {int, float, bool, type(None)}:
            yield f"{name}=some", must
        elif fault == "huge" and int in kinds and float not in kinds:
            yield f"{name}={HUGE}", must
        elif fault == "nan" and number and str not in kinds:
            yield f"{name}=nan", must


def _kinds(hint: typing.Any) -> set[typing.Any]:
    """The plain types among a type: `list[float] | None` -> {list, NoneType}."""
    origin = typing.get_origin(hint)
    if origin in (list, tuple, dict):
        return {list if origin is tuple else origin}
    parts = typing.get_args(hint)
    return set().union(*(_kinds(part) for part in parts)) if parts else {hint}
