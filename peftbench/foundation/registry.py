"""One name, one class: registries that import of their own package what is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from peftbench.foundation.errors import BadInput, ConfigError, did_you_mean, file_of
from peftbench.foundation.plugins import load_plugins, own_parts, plugin_of, plugins

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names users write to classes of one kind. Adding a file to one of `packages` edits no list.

    `base` is what all of them are built on, None where that is anything.

    A name imports the files that speak of it; with plug-ins (see `foundation.plugins`), which may speak of any, the
    packages are imported whole and the plug-ins behind them.
    """

    _texts: Mapping[str, str] | None = None

    def __init__(self, kind: str, *packages: str, base: type | None = None) -> None:
        self.kind = kind
        self._base = base
        self._packages = packages
        self._entries: dict[str, type[T]] = {}
        self._loaded = False

    def add(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; refuses a second class under the same name and says where the first one is."""

        def register(cls: type[T]) -> type[T]:
            if self._base is not None and not issubclass(cls, self._base):
                raise TypeError(f"{self.kind} '{name}': {cls.__qualname__} is not built on {self._base.__name__}")
            if name in self._entries:
                first = self._entries[name]
                if plugin_of(first.__module__) and not plugin_of(cls.__module__):
                    raise BadInput(f"{file_of(first)}: there is a {self.kind} '{name}'; give yours another name")
                raise ValueError(f"{self.kind} '{name}' is already defined by {first.__module__}.{first.__qualname__}")
            self._entries[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return register

    def get(self, name: str) -> type[T]:
        """The class called `name`; raises `ConfigError` with the nearest names."""
        if plugins() or not self._found(name):
            self._load()
        if name not in self._entries:
            raise ConfigError([f"unknown {self.kind} '{name}'{did_you_mean(name, self._entries, own_parts())}"])
        found = self._entries[name]
        if self._base is not None and (what := _unfinished(found)):
            raise BadInput(f"{file_of(found)}: {found.__qualname__} of {self.kind} '{name}' {what}")
        return found

    def names(self) -> list[str]:
        self._load()
        return sorted(self._entries)

    def _found(self, name: str) -> bool:
        for module in self._speaking_of(name) if name not in self._entries else ():
            importlib.import_module(module)
        return name in self._entries

    def _speaking_of(self, name: str) -> list[str]:
        """Modules of the packages whose source adds the name to a registry."""
        if self._texts is None:
            files = {f"{name}.{path.stem}": path for name in self._packages for path in folder_of(name).glob("*.py")}
            self._texts = {module: path.read_text(encoding="utf-8") for module, path in sorted(files.items())}
        return [module for module, source in self._texts.items() if f'.add("{name}")' in source]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports, which may ask the registry themselves
        try:
            for name in self._packages:
                for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
                    importlib.import_module(f"{name}.{module.name}")
            load_plugins()
        except BaseException:
            # else the next question would be answered from half a list, hiding why
            self._loaded = False
            raise


def _unfinished(cls: type) -> str:
    """What a class of options lacks, in words: the decorator that reads its fields, or methods; empty if nothing."""
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"lacks {', '.join(missing)}"
    declared = inspect.get_annotations(cls).values() if "__dataclass_fields__" not in vars(cls) else ()
    if any(not str(kind).startswith(("ClassVar", "typing.ClassVar")) for kind in declared):
        return "has options and is no dataclass; write @dataclass(frozen=True) above it"
    return ""


def folder_of(package: str) -> Path:
    """The folder of a package's files, which is not imported. Raises `ImportError` where it has none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is no package of files")
    return Path(spec.submodule_search_locations[0])
