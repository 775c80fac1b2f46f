"""Frozen work: the calls inside a model whose results stay the same for a sample in every epoch.

Nothing is declared for it. One pass over a few samples follows every tensor from operation to operation: what a
trainable tensor, a random number or another sample of the batch has touched moves, everything else is frozen. What a
method attached therefore decides alone what can be kept, and a method that changes the stream late, or only reads it,
needs no word about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from peftbench.train.measure import undisturbed

_INPUT = -1


@dataclass(frozen=True)
class FrozenCall:
    """A call of a module: in a pass its `number`-th, from 0.

    shape: of its output for one sample. order: its axes as they lie in memory, the slowest first: kernels may round
    by it.
    """

    module: nn.Module
    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    order: tuple[int, ...]

    @property
    def packed_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.order)

    def packed(self, output: Tensor) -> Tensor:
        """An output [batch, *shape] with its axes in the order of memory."""
        return output if self._in_order else output.permute(0, *(axis + 1 for axis in self.order))

    def unpacked(self, values: Tensor) -> Tensor:
        """The output again, in the layout it had."""
        places = (self.order.index(axis) + 1 for axis in range(len(self.order)))
        return (values if self._in_order else values.permute(0, *places)).to(self.dtype)

    @property
    def _in_order(self) -> bool:
        return list(self.order) == sorted(self.order)

    @property
    def bytes_per_sample(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class FrozenWork:
    """What of a pass need not be computed twice.

    kept: calls whose outputs the moving part reads, in order. idle: calls that nothing reads once these are given.
    reads_inputs: whether the rest still needs the model's inputs. share: how much of the forward pass's
    floating-point operations is spared, 0..1.
    """

    kept: tuple[FrozenCall, ...]
    idle: tuple[FrozenCall, ...]
    reads_inputs: bool
    share: float

    @property
    def bytes_per_sample(self) -> int:
        return sum(call.bytes_per_sample for call in self.kept)


def frozen_work(model: nn.Module, inputs: tuple[Tensor, ...]) -> FrozenWork:
    """The frozen work of `model(*inputs)` in its present mode; leaves the model and the random generators alone.

    inputs: of at least two samples, first axis the samples. Only their shapes matter.
    """
    opened: set[nn.Module] = set()
    while True:
        followed = _Followed(model, inputs, opened)
        # of the attention kernels only this one is made of products that can be counted on every device
        with undisturbed(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            followed.run()
        if not (more := followed.to_open()):
            return followed.result()
        opened |= more


@dataclass(eq=False)
class _Call:
    """A call while it runs, and what became of it.

    times: calls of the module before it. number: its own among all calls. reads: numbers of the frozen calls whose
    outputs it read.
    """

    module: nn.Module
    times: int
    number: int
    outer: tuple[_Call, ...]
    given: set[StorageWeakRef]
    reads: set[int] = field(default_factory=set)
    flops: int = 0
    moves: bool = False
    frozen: FrozenCall | None = None

    @property
    def outermost(self) -> bool:
        return self.frozen is not None and not any(outer.frozen for outer in self.outer)


class _Followed(TorchDispatchMode):
    """One pass with labels on storages: the frozen calls that a tensor comes from, None for a tensor that moves."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], opened: set[nn.Module]) -> None:
        super().__init__()
        self.model, self.inputs, self.opened = model, inputs, opened
        self.calls: list[_Call] = []
        self.needed: set[int] = set()
        self.flops = 0
        self._stack: list[_Call] = []
        self._times: dict[nn.Module, int] = {}
        # a number that moves was read by Python: what follows may depend on it in ways that no tensor shows
        self._lost = False
        self._old = {_storage(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        self._labels: dict[StorageWeakRef, frozenset[int] | None] = {}
        self._labels |= {_storage(tensor): None for tensor in model.parameters() if tensor.requires_grad}
        self._labels |= {_storage(tensor): frozenset({_INPUT}) for tensor in inputs}

    def run(self) -> None:
        hooks = register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)
        try:
            with self:
                output = self.model(*self.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in _tensors(output):
            self.needed |= self._labels.get(_storage(tensor)) or frozenset()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        written = _written(func, args, kwargs)
        labels = [self._labels.get(_storage(tensor), frozenset()) for tensor in _tensors((args, kwargs))]
        read = frozenset[int]().union(*(label for label in labels if label is not None))
        moves = self._lost or None in labels or _draws(func) or _mixes_samples(func, args, kwargs)
        if moves:
            self.needed |= read
            self._lost |= func is torch.ops.aten._local_scalar_dense.default
        flops = _flops(func, args, kwargs, out)
        self.flops += flops
        for call in self._stack:
            call.reads |= read
            call.moves |= moves or any(_storage(tensor) in self._old for tensor in written)
            call.flops += flops
        for tensor in [*_tensors(out), *written]:
            before = self._labels.get(_storage(tensor), frozenset())
            self._labels[_storage(tensor)] = None if moves or before is None else before | read
        return out

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        given = {_storage(tensor) for tensor in _tensors(inputs)}
        times = self._times[module] = self._times.get(module, -1) + 1
        self._stack.append(_Call(module, times, len(self.calls), tuple(self._stack), given))
        self.calls.append(self._stack[-1])

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        call = self._stack.pop()
        if call.moves or not call.reads or module in self.opened:
            return
        if not isinstance(output, Tensor) or output.shape[:1] != self.inputs[0].shape[:1]:
            return
        storage = _storage(output)
        # what hands its input on makes nothing that could be kept
        if storage in call.given | self._old or self._labels.get(storage, frozenset()) is None:
            return
        order = sorted(range(output.ndim - 1), key=lambda axis: -output.stride(axis + 1))
        call.frozen = FrozenCall(module, call.times, tuple(output.shape[1:]), output.dtype, tuple(order))
        self._labels[storage] = frozenset({call.number})

    def to_open(self) -> set[nn.Module]:
        """Modules whose calls cannot be kept whole.

        A part of one is read from outside; or a module is called inside of one and kept outside, and would lose count.
        """
        alone = {call.module for call in self.calls if call.outermost}
        inner = [self.calls[number] for number in self._live()] + [c for c in self.calls if c.module in alone]
        return {outer.module for call in inner for outer in call.outer if outer.frozen is not None}

    def result(self) -> FrozenWork:
        live = self._live()
        outermost = [call for call in self.calls if call.outermost]
        kept = [call for call in outermost if call.number in live and self._is_kept(call)]
        idle = [call for call in outermost if call.number not in live]
        again = [self._read_by(number) for number in live if not self._is_kept(self.calls[number])]
        reads_inputs = _INPUT in self.needed.union(*again)
        spared = sum(call.flops for call in [*kept, *idle])
        return FrozenWork(
            tuple(call.frozen for call in kept if call.frozen),
            tuple(call.frozen for call in idle if call.frozen),
            reads_inputs,
            spared / self.flops if self.flops else 0.0,
        )

    def _live(self) -> set[int]:
        """Frozen calls whose output is read: by what moves, or by a call that is made again."""
        live: set[int] = set()
        waiting = self.needed - {_INPUT}
        while waiting:
            live |= waiting
            again = [number for number in waiting if not self._is_kept(self.calls[number])]
            waiting = {n for number in again for n in self._read_by(number)} - live - {_INPUT}
        return live

    def _is_kept(self, call: _Call) -> bool:
        """Calls without products are cheap and made again, unless they make little of much."""
        if call.flops or call.frozen is None:
            return call.flops > 0
        sources = [self.calls[number].frozen for number in self._read_by(call.number) - {_INPUT}]
        return 2 * call.frozen.bytes_per_sample <= sum(source.bytes_per_sample for source in sources if source)

    def _read_by(self, number: int) -> set[int]:
        """What a call reads of calls outside itself."""
        call = self.calls[number]
        return {n for n in call.reads if n == _INPUT or call not in self.calls[n].outer}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Each argument of the operator's schema with what was given for it."""
    for place, argument in enumerate(func._schema.arguments):
        if place < len(args):
            yield argument, args[place]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


def _written(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """What an operation changes in place."""
    given = _arguments(func, args, kwargs)
    return _tensors([value for argument, value in given if argument.alias_info and argument.alias_info.is_write])


def _draws(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _mixes_samples(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Batch norm in train mode, whose result for a sample depends on the others and which keeps statistics."""
    if "batch_norm" not in func._schema.name:
        return False
    flags = [value for argument, value in _arguments(func, args, kwargs) if argument.name in ("training", "train")]
    return any(flags) or not flags


def _flops(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> int:
    count = flop_registry.get(func._overloadpacket)
    return int(count(*args, **kwargs, out_val=out)) if count is not None else 0
