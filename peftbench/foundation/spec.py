"""Typed options: frozen dataclasses whose fields carry their range, and the check that reports every problem."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from peftbench.foundation.errors import BadInput, ConfigError, brief, did_you_mean, file_of


def option(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[str] | Callable[[], Sequence[str]] | None = None,
    location: bool = False,
    later: bool = False,
) -> Any:
    """A dataclass field with limits.

    `location` marks where an input lies (path, url): it is left out of a cell's identity, where the
    input's digest stands instead. `later` marks a field added after records existed: it is left out of the
    identity while it holds its default, so that old fingerprints stay valid.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt, "choices": choices}
    metadata = {key: value for key, value in limits.items() if value is not None}
    metadata |= {"location": location, "later": later}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# beyond this a float has no next whole number, so one that is written as a float is no count
_WHOLE = 2**53
# more of anything than any machine holds; numpy and torch count with 64 bits, some of their seeds with 32
_LARGEST = 2**32 - 1
_BOUNDS = {
    "ge": ("at least", lambda value, limit: value >= limit),
    "gt": ("greater than", lambda value, limit: value > limit),
    "le": ("at most", lambda value, limit: value <= limit),
    "lt": ("less than", lambda value, limit: value < limit),
}


@dataclass(frozen=True)
class Spec:
    """Base of every options dataclass. `section` is the first word of its options on the command line."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        problems = [problem for field in dataclasses.fields(self) for problem in self._field_problems(field)]
        if not problems:
            problems = list(self.problems())
        if problems:
            raise ConfigError(problems)

    def problems(self) -> Sequence[str]:
        """Problems between options; called once every field is within its own limits."""
        return ()

    def option_name(self, field: str) -> str:
        return f"{self.section}.{field}" if self.section else field

    def _field_problems(self, field: dataclasses.Field[Any]) -> list[str]:
        value, name = getattr(self, field.name), self.option_name(field.name)
        values = value if isinstance(value, (list, tuple)) else [value]
        problems = []
        for item in values:
            if item is None:
                continue
            if isinstance(item, float) and not math.isfinite(item):
                problems.append(f"{name} must be a finite number, got {item}")
                continue
            if isinstance(item, str) and item and not item.isprintable():
                problems.append(f"{name} must be without control characters, got '{brief(item)}'")
            if item == "" and default_of(field) is None:
                problems.append(f"{name} must not be empty; leave the word out for its default")
                continue
            if isinstance(item, int) and abs(item) > _LARGEST:
                problems.append(f"{name} must be at most {_LARGEST:,}, got {brief(item)}")
                continue
            for key, (words, holds) in _BOUNDS.items():
                if key in field.metadata and not holds(item, field.metadata[key]):
                    problems.append(f"{name} must be {words} {field.metadata[key]}, got {brief(item)}")
            choices = field.metadata.get("choices")
            allowed = choices() if callable(choices) else choices
            if allowed is not None and item not in allowed:
                hint = did_you_mean(str(item), allowed)
                problems.append(f"{name} cannot be '{brief(item)}'{hint}")
        return problems

    def identity(self) -> dict[str, Any]:
        """The options that can change a number, as plain JSON values (see `option` for what is left out)."""
        result: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("location") or (field.metadata.get("later") and value == default_of(field)):
                continue
            result[field.name] = list(value) if isinstance(value, tuple) else value
        return result


def labelled(name: str, spec: Spec) -> str:
    """`name` with the options that differ from their defaults, as tables print it: `lora (rank=16)`."""
    default = type(spec)().identity()
    changed = [f"{key}={value}" for key, value in spec.identity().items() if value != default.get(key, ...)]
    return f"{name} ({', '.join(changed)})" if changed else name


# how close a method or an objective is to its source
FAITHFULNESS = ("as the paper", "adapted", "details not published")


def remark(faithfulness: str, adapted: str) -> str:
    """What a table must say beside a name: nothing where all is as the paper, else what was changed or is unknown."""
    return {"as the paper": "", "adapted": f"adapted. {adapted}"}.get(faithfulness, faithfulness)


@dataclass(frozen=True)
class Part(Spec):
    """Base of what is chosen by name and comes from a source: methods, objectives, tasks.

    Class facts: `version` (raise it when the meaning of the code changes), `faithfulness` (one of `FAITHFULNESS`), and
    `adapted`: one sentence on what was changed, for adapted ones only.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    faithfulness: ClassVar[str] = FAITHFULNESS[0]
    adapted: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """Name with the options that differ from the defaults, as tables print it: `lora (rank=16)`."""
        return labelled(self.name, self)

    @property
    def remark(self) -> str:
        """What a table must say beside the name; empty for what is as in its paper."""
        return remark(self.faithfulness, self.adapted)

    def unwritten(self, method: str) -> NotImplementedError:
        """What a class raises that lacks a method which every one of its kind has to have."""
        return NotImplementedError(f"{type(self).__name__} of {self.section} '{self.name}' has no {method}()")


def default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def defaults_of(cls: type[Spec]) -> dict[str, Any]:
    """Option name -> default value of a spec class, in order."""
    return {field.name: default_of(field) for field in dataclasses.fields(cls)}


def build(cls: type[Spec], values: dict[str, Any]) -> Spec:
    """An instance of `cls` from untyped values (yaml, command line), converted to the fields' types.

    Raises `ConfigError` listing every unknown option, wrong type and value out of range.
    """
    hints = _hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    prefix = f"{cls.section}." if cls.section else ""
    problems, converted = [], {}
    for key, value in values.items():
        if key not in known:
            problems.append(f"unknown option {prefix}{brief(key)}{did_you_mean(str(key), known)}")
            continue
        try:
            converted[key] = _convert(value, hints[key])
        except (TypeError, ValueError):
            wanted = f"{prefix}{key} must be {describe(hints[key])}, got {brief(repr(value))}"
            problems.append(wanted + (_as_a_list(cls, key, value) if _fits([value], hints[key]) else ""))
    try:
        instance = cls(**converted)
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return instance


def _as_a_list(cls: type[Spec], key: str, value: Any) -> str:
    """Advice to write a lone value as a list; the default, or what is asked, where a list of one is not taken."""
    default, option_name = defaults_of(cls)[key], f"{cls.section}.{key}" if cls.section else key
    try:
        cls(**{key: _convert([value], _hints(cls)[key])})
    except ConfigError as error:
        if default:
            return f"; write {option_name}=[{','.join(map(str, default))}]"
        return f"; {error.problems[0]}"
    except TypeError:  # other options have no defaults, so it cannot be tried alone
        pass
    return f"; write {option_name}=[{brief(str(value))}]"


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type[Spec]) -> dict[str, Any]:
    """The types of a class's fields, found once: thousands of cells are built from a few classes.

    Raises `BadInput` for one that no option can have.
    """
    if cls not in _HINTS:
        try:
            hints = typing.get_type_hints(cls)
        except (NameError, TypeError) as error:
            raise BadInput(f"{file_of(cls)}: the options of {cls.__name__}: {error}") from error
        for field in dataclasses.fields(cls):
            if not _convertible(hints[field.name]):
                kind = f"an option cannot be {describe(hints[field.name])}"
                raise BadInput(f"{file_of(cls)}: {cls.__name__}.{field.name}: {kind}; {_KINDS}")
        _HINTS[cls] = hints
    return _HINTS[cls]


_KINDS = "take int, float, str, bool, dict, a list or tuple of such, or one of them | None"


def _convertible(hint: Any) -> bool:
    """Whether `_convert` knows the type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return all(map(_convertible, arguments))
    if origin in (list, tuple):
        return not arguments or _convertible(arguments[0])
    return origin is dict or hint in (Any, type(None), int, float, str, bool, dict, list, tuple)


def describe(hint: Any) -> str:
    """A type in words: `int | None` -> 'an integer or null', `list[float]` -> 'a list of numbers'."""
    names = {int: "an integer", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]
    if (typing.get_origin(hint) or hint) in (list, tuple):
        kinds = [{int: "integers", float: "numbers", str: "words"}.get(kind) for kind in typing.get_args(hint)]
        return f"a list of {kinds[0]}" if kinds and kinds[0] else "a list"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in typing.get_args(hint))
    return str(hint)


def _fits(value: Any, hint: Any) -> bool:
    try:
        _convert(value, hint)
    except (TypeError, ValueError):
        return False
    return True


def _convert(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for part in arguments:
            try:
                return _convert(value, part)
            except (TypeError, ValueError):
                continue
        raise TypeError
    if hint is Any:
        return value
    if hint is type(None):
        if value is not None:
            raise TypeError
        return None
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise TypeError
        kinds = arguments[0] if arguments else Any
        return origin(_convert(item, kinds) for item in value)
    if origin is dict:
        return dict(value)
    if hint is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or value is None:
        raise TypeError
    if hint is int:
        if isinstance(value, float) and not (value.is_integer() and abs(value) < _WHOLE):
            raise TypeError
        return int(value)
    if hint is float:
        return float(value)
    if hint is str:
        if not isinstance(value, (str, int, float)):
            raise TypeError
        return str(value)
    raise TypeError(f"no conversion to {hint}")
