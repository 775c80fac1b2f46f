"""Kernels of torch that others stand in for, inside a context."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Replaced:
    """Operators of `aten`, each with what computes it instead and the dispatch key that it does so for.

    It holds for the whole process and all its threads.
    """

    def __init__(self, **kernels: tuple[str, Callable[..., Any]]) -> None:
        self._kernels = kernels
        self._library: torch.library.Library | None = None

    @property
    def on(self) -> bool:
        """Whether the others compute now."""
        return self._library is not None

    @contextmanager
    def where(self, on: bool) -> Iterator[None]:
        """Inside, the others compute if `on`, else torch's own; behind, what did before."""
        before = self.on
        self._turn(on)
        try:
            yield
        finally:
            self._turn(before)

    def _turn(self, on: bool) -> None:
        if on == self.on:
            return
        # torch takes its kernels back when the object is gone
        self._library = None
        if on:
            library = torch.library.Library("aten", "IMPL")
            with warnings.catch_warnings():
                # some versions of torch say that a kernel was there
                warnings.filterwarnings("ignore", "(?s).*previously registered kernel")
                for name, (key, kernel) in self._kernels.items():
                    library.impl(name, kernel, key)
            self._library = library
