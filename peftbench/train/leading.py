"""Modules that take each token by itself, run for the leading tokens alone; and whether that comes to the same.

A network that pools one token leaves the others of its last block unread behind the attention there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from peftbench.train.batches import Batch
from peftbench.train.loss import LossFn
from peftbench.train.measure import undisturbed
from peftbench.train.precision import autocast

# relative to what is compared: far above what kernels round, bfloat16's among them, and far below what a token does
_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
_SEED = 0
_READ = "other tokens of the last block are read as well"
# of what computes with tokens that are not what it expects
_REFUSED = (RuntimeError, ValueError, IndexError, AssertionError)


@contextmanager
def leading_alone(modules: Sequence[nn.Module], num_tokens: int) -> Iterator[None]:
    """Inside, `modules` see the first `num_tokens` of [batch, tokens, width], and give zeros for the others."""
    with _around(modules, [_Cut(num_tokens) for _ in modules]):
        yield


def reader(
    modules: Sequence[nn.Module],
    num_tokens: int,
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    inputs: Sequence[str],
    precision: str,
) -> str:
    """What needs the other tokens of `modules`, in words; empty where the first `num_tokens` are all that is read.

    Their other tokens, what goes in and what comes out, are spoilt: with numbers, for what chooses by a comparison, and
    with NaN, which goes through every sum and product, by zero too. A loss that stays what it was reads none of them.
    Then they are left out, and the outputs in evaluation have to stay as well.
    """
    device = next(iter(batch.values())).device

    def loss() -> Tensor:
        with undisturbed(model), autocast(device, precision):
            torch.manual_seed(_SEED)
            model.train()
            return loss_fn(model, batch).detach()

    def outputs() -> list[Tensor]:
        with undisturbed(model), autocast(device, precision), torch.no_grad():
            torch.manual_seed(_SEED)
            found = model.eval()(*(batch[name] for name in inputs))
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]

    expected, whole = loss(), outputs()
    # NaN last: a loss that reads it may end in an index out of bounds, behind which a GPU computes nothing any more
    for value in (3.0, float("nan")):
        spoils = [_Spoil(num_tokens, value) for _ in modules]
        try:
            with _around(modules, spoils):
                found = loss()
        except _OtherShape:
            return "what the last block is given has another shape than [batch, tokens, width]"
        except torch.OutOfMemoryError:
            raise
        except _REFUSED:
            return _READ
        if not all(spoil.ran for spoil in spoils):
            return "the last block is not run place by place"
        if not _close([expected], [found], precision):
            return _READ
    try:
        with leading_alone(modules, num_tokens):
            loss()
            cut = outputs()
    except torch.OutOfMemoryError:
        raise
    except _REFUSED:
        return "what the method put into the last block needs all tokens"
    return "" if _close(whole, cut, precision) else "what the method put into the last block counts its tokens"


class _OtherShape(Exception):
    """A module was given something else than [batch, tokens, width]."""


class _Cut:
    """Hooks around one module: what comes behind the first tokens is cut off, and zeros come back."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens, self._missing = num_tokens, 0

    def ahead(self, module: nn.Module, inputs: Any) -> Any:
        tokens, *others = inputs
        self._missing = tokens.shape[1] - self._num_tokens
        # a copy, so that nothing keeps the others for the backward pass
        return tokens[:, : self._num_tokens].contiguous(), *others

    def behind(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return F.pad(output, (0, 0, 0, self._missing))


class _Spoil:
    """Hooks around one module: its tokens behind the first, given and returned, are all of one value."""

    def __init__(self, num_tokens: int, value: float) -> None:
        self._num_tokens, self._value, self.ran = num_tokens, value, False

    def ahead(self, module: nn.Module, inputs: Any) -> Any:
        tokens, *others = inputs
        self.ran = True
        return self._spoilt(tokens), *others

    def behind(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self._spoilt(output)

    def _spoilt(self, tokens: Any) -> Tensor:
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] <= self._num_tokens:
            raise _OtherShape
        others = torch.full_like(tokens[:, self._num_tokens :], self._value)
        return torch.cat([tokens[:, : self._num_tokens], others], dim=1)


@contextmanager
def _around(modules: Sequence[nn.Module], hooks: Sequence[_Cut | _Spoil]) -> Iterator[None]:
    """Inside, these are the hooks next to the modules: those of others see all tokens, but in the inputs of a call that
    is over.
    """
    handles = []
    try:
        for module, hook in zip(modules, hooks, strict=True):
            handles.append(module.register_forward_pre_hook(hook.ahead))
            handles.append(module.register_forward_hook(hook.behind, prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _close(expected: Sequence[Tensor], found: Sequence[Tensor], precision: str) -> bool:
    """Within rounding of each other; never where one is NaN."""
    rate = _TOLERANCE[precision]
    return all(
        a.shape == b.shape and torch.allclose(b.double(), a.double(), rtol=rate, atol=rate * float(a.abs().max()))
        for a, b in zip(expected, found, strict=True)
    )
