"""A model whose frozen calls (see `frozen`) are answered from values that were computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from peftbench.train.batches import Batches
from peftbench.train.frozen import FrozenCall, FrozenWork
from peftbench.train.measure import undisturbed
from peftbench.train.precision import autocast

_NUM_COMPARED = 4


class Replay(nn.Module):
    """`model` without its frozen work: `forward` takes, by the names in `inputs`, what the rest needs.

    shapes: of the model's inputs by name, without the axis of the samples. Where the rest reads none of them, the
    model is given blank ones.
    """

    def __init__(self, model: nn.Module, work: FrozenWork, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.model = model
        self.work, self._shapes = work, shapes
        self.read = tuple(shapes) if work.reads_inputs else ()
        self.kept = tuple(f"kept.{number}" for number in range(len(work.kept)))
        self._blanks: dict[tuple[Any, ...], Tensor] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*self.read, *self.kept)

    def forward(self, *values: Tensor) -> Any:
        own, kept = values[: len(self.read)], values[len(self.read) :]
        like = values[0]
        if not self.read:
            own = tuple(self._blank(like, shape, torch.float32) for shape in self._shapes.values())
        answers = [call.unpacked(value) for call, value in zip(self.work.kept, kept, strict=True)]
        answers += [self._blank(like, call.shape, call.dtype) for call in self.work.idle]
        with _instead((*self.work.kept, *self.work.idle), [_always(answer) for answer in answers]):
            return self.model(*own)

    def _blank(self, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor that nothing reads; made once, so it may hold anything."""
        key = len(like), shape, dtype, like.device
        if key not in self._blanks:
            self._blanks[key] = torch.zeros(len(like), *shape, dtype=dtype, device=like.device)
        return self._blanks[key]


Forward = Callable[..., Tensor]


@contextmanager
def _instead(calls: Sequence[FrozenCall], forwards: Sequence[Forward]) -> Iterator[None]:
    """For a while these calls compute so; the hooks of their modules run as always."""
    by_module: dict[nn.Module, dict[int, Forward]] = {}
    for call, forward in zip(calls, forwards, strict=True):
        by_module.setdefault(call.module, {})[call.number] = forward
    try:
        for module, by_number in by_module.items():
            # past nn.Module's own bookkeeping, which is slow
            module.__dict__["forward"] = _counting(module.forward, by_number)
        yield
    finally:
        for module in by_module:
            module.__dict__.pop("forward", None)


def _counting(forward: Forward, by_number: dict[int, Forward]) -> Forward:
    numbers = count()
    return lambda *args, **kwargs: by_number.get(next(numbers), forward)(*args, **kwargs)


def _always(value: Tensor) -> Forward:
    return lambda *args, **kwargs: value


def kept_values(
    model: nn.Module, calls: Sequence[FrozenCall], batches: Batches, precision: str, into: Sequence[Tensor]
) -> None:
    """Fill `into`, one [num_samples, *packed_shape] for each call, with the calls' outputs for every sample of a split.

    In the model's present mode, which like buffers and random generators is left as it was.
    """
    for index, found in _outputs(model, calls, batches, precision):
        for values, output in zip(into, found, strict=True):
            values[index.to(values.device)] = output


def agree(
    model: nn.Module, calls: Sequence[FrozenCall], batches: Batches, precision: str, stored: Sequence[Tensor]
) -> bool:
    """Whether values of another model's calls are those of this one, bit for bit in the first batch."""
    index, found = next(_outputs(model, calls, batches, precision))
    kept = [values[index.to(values.device)].to(index.device) for values in stored]
    return all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))


def _outputs(
    model: nn.Module, calls: Sequence[FrozenCall], batches: Batches, precision: str
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Of each batch the places of its samples and what the calls give for them, packed."""
    for batch in batches.epoch(0):
        with undisturbed(model), torch.no_grad(), autocast(batches.device, precision):
            found, _ = _caught(model, calls, batches.inputs_of(batch), whole=False)
        yield batch["index"], [call.packed(output) for call, output in zip(calls, found, strict=True)]


def repeats(
    replay: Replay, batches: Batches, precision: str, stored: Sequence[Tensor], num_compared: int = _NUM_COMPARED
) -> bool:
    """Whether stored values and the replay give the very bits that the model gives on batches of other samples.

    The first few batches of an epoch and its last, shorter one are compared: kernels may round a sample's numbers
    differently with the size of a batch or the sample's place in it, and then values kept from another batch differ.
    """
    model, calls = replay.model, replay.work.kept
    for number, batch in enumerate(batches.epoch(0)):
        if num_compared <= number < len(batches) - 1:
            continue
        place, inputs = batch["index"], batches.inputs_of(batch)
        kept = [values[place.to(values.device)].to(place.device) for values in stored]
        # each pass from the same state of the random generators
        with undisturbed(model), autocast(batches.device, precision):
            found, direct = _caught(model, calls, inputs)
        with undisturbed(model), autocast(batches.device, precision):
            replayed = replay(*(inputs if replay.read else ()), *kept)
        packed = [call.packed(output) for call, output in zip(calls, found, strict=True)]
        pairs = zip([*packed, *_leaves(direct)], [*kept, *_leaves(replayed)], strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            return False
    return True


class _Enough(Exception):
    """Every value that was wanted is there; the rest of the pass need not run."""


def _caught(
    model: nn.Module, calls: Sequence[FrozenCall], inputs: Sequence[Tensor], whole: bool = True
) -> tuple[list[Tensor], Any]:
    """What the calls give in a pass, and what the pass gives; None where it ends with the last of them."""
    found: dict[int, Tensor] = {}

    def catching(number: int, forward: Forward) -> Forward:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            output = forward(*args, **kwargs)
            # a copy: what follows may change the output in place
            found[number] = output.detach().clone()
            if len(found) == len(calls) and not whole:
                raise _Enough
            return output

        return call

    output = None
    catchers = [catching(number, call.module.forward) for number, call in enumerate(calls)]
    with _instead(calls, catchers), suppress(_Enough):
        output = model(*inputs)
    return [found[number] for number in range(len(calls))], output


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
