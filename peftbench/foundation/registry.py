"""One name, one class: registries that import their own package on first use."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from peftbench.foundation.errors import ConfigError, did_you_mean
from peftbench.foundation.plugins import load_plugins

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps the names users write to classes of one kind. Adding a file to one of `packages` edits no list.

    Plug-ins (see `foundation.plugins`) are imported behind the packages.
    """

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
        self._load()
        if name not in self._entries:
            raise ConfigError([f"unknown {self.kind} '{name}'{did_you_mean(name, self._entries)}"])
        return self._entries[name]

    def names(self) -> list[str]:
        self._load()
        return sorted(self._entries)

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
