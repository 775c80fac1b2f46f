"""One name, one class: registries that import of their own package what is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from peftbench.foundation.errors import ConfigError, did_you_mean
from peftbench.foundation.plugins import load_plugins, own_parts, plugins

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names users write to classes of one kind. Adding a file to one of `packages` edits no list.

    A name imports the files that speak of it; with plug-ins (see `foundation.plugins`), which may speak of any, the
    packages are imported whole and the plug-ins behind them.
    """

    _texts: Mapping[str, str] | None = None

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._entries: dict[str, type[T]] = {}
        self._loaded = False

    def add(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator; refuses a second class under the same name and says where the first one is."""

        def register(cls: type[T]) -> type[T]:
            if name in self._entries:
                first = self._entries[name]
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
        return self._entries[name]

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


def folder_of(package: str) -> Path:
    """The folder of a package's files, which is not imported. Raises `ImportError` where it has none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is no package of files")
    return Path(spec.submodule_search_locations[0])
