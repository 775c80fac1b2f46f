"""Modules in outline: their own source, run with stand-ins for whatever it imports that is heavy.

Planning asks a method for its options, their limits and its version, and never attaches it; yet the file of a method
imports torch, which takes seconds. In outline the same file gives the same classes, whose options and checks are whole
and whose other methods cannot work. A file that asks something of a stand-in while it is read, or a class that is built
on one, has no outline (`NoOutline`): then it is imported.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn, TypeVar

from peftbench.foundation import registry
from peftbench.foundation.registry import Registry, folder_of

T = TypeVar("T")

# what an outline imports in earnest, beside the standard library
LIGHT = ("peftbench.foundation.errors", "peftbench.foundation.metric", "peftbench.foundation.spec")


class NoOutline(Exception):
    """What was asked can only be told by importing the module."""


class _Foreign:
    """Stands in a class's bases for one that was not imported."""


class StandIn:
    """Something that was not imported: it can be named, called, subscripted and built on; a question to it raises."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> StandIn:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(f"{self.__name__}.{name}")

    def __call__(self, *args: object, **kwargs: object) -> StandIn:
        return StandIn(f"{self.__name__}()")

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (_Foreign,)

    def __getitem__(self, key: object) -> StandIn:
        return StandIn(f"{self.__name__}[]")

    def __or__(self, other: object) -> StandIn:
        return self

    __ror__ = __or__
    __hash__ = object.__hash__

    def _asked(self, *args: object) -> NoReturn:
        raise NoOutline(f"{self.__name__} is not imported")

    __bool__ = __len__ = __iter__ = __contains__ = __index__ = __float__ = _asked
    __lt__ = __le__ = __gt__ = __ge__ = _asked
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _asked

    def __eq__(self, other: object) -> NoReturn:
        self._asked()


class OutlineRegistry(Registry[T]):
    """The registry of a package in outline; runs only the files that speak of the name asked for."""

    def add(self, name: str) -> Callable[[type[T]], type[T]]:
        register = super().add(name)
        return lambda cls: register(cls) if _known(cls) else cls

    def find(self, name: str) -> type[T]:
        """The class called `name`. Raises `NoOutline` when there is none, or none that can be had in outline."""
        if name not in self._entries:
            for module in self._speaking_of(name):
                outline(module)
        if name not in self._entries:
            raise NoOutline(f"no {self.kind} '{name}' in outline")
        return self._entries[name]


def outline(module: str) -> ModuleType:
    """The outline of a module of a package whose `__init__` is light. Raises `NoOutline`."""
    name = f"outline of {module}"
    if name in sys.modules:
        return sys.modules[name]
    package, _, stem = module.rpartition(".")
    try:
        path = folder_of(package) / f"{stem}.py"
    except ImportError as error:
        raise NoOutline(str(error)) from error
    made = ModuleType(name)
    made.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(package)}
    # dataclasses and typing look a class's module up by its name
    sys.modules[name] = made
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True), made.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception) and not isinstance(error, NoOutline):
            raise NoOutline(f"{path}: {error}") from error
        raise
    return made


def _importer(package: str) -> Callable[..., Any]:
    """`__import__` of an outline: neighbours in outline, the light in earnest, stand-ins for the rest."""

    def load(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and (name.partition(".")[0] in sys.stdlib_module_names or name in LIGHT):
            return builtins.__import__(name, None, None, fromlist, 0)
        if name == registry.__name__:
            return SimpleNamespace(Registry=OutlineRegistry)
        return outline(name) if name.startswith(f"{package}.") else StandIn(name)

    return load


def _known(cls: type) -> bool:
    """Whether nothing of the class's options and facts hangs on what was not imported."""
    if _Foreign in cls.__mro__:
        return False
    facts = [value for part in cls.__mro__ for value in vars(part).values()]
    fields = getattr(cls, "__dataclass_fields__", {})
    held = [value for field in fields.values() for value in (field.default, *field.metadata.values())]
    return not any(isinstance(value, StandIn) for value in (*facts, *held))
