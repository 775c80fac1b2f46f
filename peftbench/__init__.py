"""peftbench: a reproducible benchmark of parameter-efficient fine-tuning in vision.

`import peftbench` loads nothing heavy; each name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftbench.api.adapted import Adapted, attach, load
    from peftbench.api.cells import records, run
    from peftbench.api.parts import backbones, datasets, methods
    from peftbench.api.predicting import predictor
    from peftbench.api.tables import Board, leaderboard

# said in every notebook without widgets by a library of our libraries, whose bars are not shown
warnings.filterwarnings("ignore", message="IProgress not found", module="tqdm")

__all__ = [
    "Adapted",
    "Board",
    "attach",
    "backbones",
    "datasets",
    "leaderboard",
    "load",
    "methods",
    "predictor",
    "records",
    "run",
]

_HOMES = {
    "Adapted": "adapted",
    "Board": "tables",
    "attach": "adapted",
    "backbones": "parts",
    "datasets": "parts",
    "leaderboard": "tables",
    "load": "adapted",
    "methods": "parts",
    "predictor": "predicting",
    "records": "cells",
    "run": "cells",
}
# these functions have the name of a package here, which is therefore called in their place
_PACKAGES = ("backbones", "methods", "records")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"peftbench.{name}")
    if name in _HOMES:
        return _function(name)
    raise AttributeError(f"module 'peftbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _function(name: str) -> Any:
    return getattr(importlib.import_module(f"peftbench.api.{_HOMES[name]}"), name)


class _CalledPackage(ModuleType):
    """A package that answers to a call: `peftbench.methods()` beside `import peftbench.methods.lora`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _function(self.__name__.rpartition(".")[2])(*arguments, **options)


class _Front(ModuleType):
    """This package. The import system hangs each loaded package under it as an attribute, which is seen here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PACKAGES and isinstance(value, ModuleType):
            value.__class__ = _CalledPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front
