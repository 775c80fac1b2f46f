"""Other ways to run a network's blocks in training: compiled one by one, or computed twice to keep less."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from peftbench.train.options import TrainSpec

# Blocks with stochastic depth differ in one number each, and the compiler writes code for every number.
_MOST_VERSIONS = 64


class Blocks:
    """Blocks that a training step runs as `train` says: `train.compile`, `train.recompute`, or as they are."""

    def __init__(self, blocks: Sequence[nn.Module], train: TrainSpec) -> None:
        self._blocks, self._train = blocks, train
        # made once: what runs in one epoch is found again in the next
        trained = [block for block in blocks if _trains(block)]
        self._compiled = [_CompiledForOneSize(block, len(trained) > 1) for block in blocks] if train.compile else []

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Inside, the blocks run so; evaluation, which is outside, runs them as they are."""
        if self._train.recompute:
            with recomputed(self._blocks):
                yield
        elif self._train.compile:
            with self._compiled_calls():
                yield
        else:
            yield

    @contextmanager
    def _compiled_calls(self) -> Iterator[None]:
        """Each block calls what was compiled for it; blocks of equal code and equal hooks share that.

        What the compiler wrote stays on disk, where later processes find it (TORCHINDUCTOR_CACHE_DIR).
        """
        # torch takes blocks that differ in hooks alone for equal, and would leave out all but those of the first
        settings = {
            # recompile_limit of torch 2.7 and later, which knows it by this name too
            "cache_size_limit": max(torch._dynamo.config.cache_size_limit, _MOST_VERSIONS),
            "skip_nnmodule_hook_guards": False,
        }
        for block, call in zip(self._blocks, self._compiled, strict=True):
            block._compiled_call_impl = call
        try:
            with torch._dynamo.config.patch(settings):
                yield
        finally:
            for block in self._blocks:
                block._compiled_call_impl = None


class _CompiledForOneSize:
    """A compiled block for batches of the size that comes first; the short last batch of an epoch runs as it is.

    The compiler would write everything again for it, and again for any size. So it would for the first block that
    trains, whose input needs no gradient where those of all others do: among `several` it runs as it is.
    """

    def __init__(self, block: nn.Module, several: bool) -> None:
        self._plain = block._call_impl
        self._compiled = torch.compile(self._plain, dynamic=False)
        self._size: int | None = None
        self._leave_first = several and _trains(block)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
        self._size = len(given) if self._size is None else self._size
        plain = len(given) != self._size or (self._leave_first and not given.requires_grad)
        return (self._plain if plain else self._compiled)(*args, **kwargs)


def _trains(block: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in block.parameters())


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, each block keeps its input alone and is computed again in the backward pass (arXiv:1604.06174).

    It draws the same random numbers again, so no bit changes.
    """
    with ExitStack() as stack:
        for block in blocks:
            again = partial(checkpoint, block.forward, use_reentrant=False)
            stack.enter_context(replaced_forward(block, again))
        yield


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling `module` calls `forward`."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
