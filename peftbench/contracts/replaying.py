"""What CUDA graphs do, on a CPU: operations are recorded once, then done again on the same memory without any Python.

So contracts on graphs hold where there is no GPU: work whose replay gives other numbers than the work itself has a part
that is the host's, and what would make the host wait, or has no deterministic kernel on CUDA, ends the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from peftbench.train.capture import CAPTURED, Sizes

# Operations for which the host waits on CUDA: it reads a value, has to know how many there are, or sends a number.
_WAITS = frozenset(
    (
        *("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),
        *("bincount", "_linalg_check_errors", "lift_fresh", "linalg_eig", "linalg_eigvals", "_pin_memory"),
        # whether these came to an end is looked at on the host
        *("_linalg_svd", "_linalg_eigh", "linalg_matrix_exp"),
    )
)
# What torch refuses in deterministic mode on CUDA (the list of `torch.use_deterministic_algorithms`). Bilinear resizing
# of maps is not among them: torch has another form of it for that mode.
_NO_KERNEL = frozenset(
    (
        *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
        *("adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
        *("max_unpool2d", "max_unpool3d", "nll_loss2d_forward", "_ctc_loss_backward", "histc", "put_"),
        *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
        *("upsample_linear1d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward"),
        *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
        *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "_embedding_bag_dense_backward", "median"),
    )
)
_BY_MASK = frozenset(("index", "index_put", "index_put_", "_index_put_impl_"))
_UNWRITTEN = frozenset(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"))


class NotReplayable(Exception):
    """Why work cannot be recorded, or its record not be done again."""


class _Outside:
    """A tensor from before the recording, as a graph knows it: an address that may have been given back since."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._place = tensor.storage_offset(), tensor.size(), tensor.stride()
        # some operations choose their kernels by whether a gradient is asked for
        self._dtype, self._requires_grad = tensor.dtype, tensor.requires_grad

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None:
            raise NotReplayable("a recorded step reads memory that was given back")
        rebuilt: Tensor = torch.empty(0, dtype=self._dtype).set_(storage, *self._place)
        return rebuilt.requires_grad_(self._requires_grad)


class Watched(TorchDispatchMode):
    """Looks at every operation and leaves it alone.

    Where any mode looks on, `linear` is done in another form in inference mode, with other last bits on some
    processors. So work that is compared with its record is looked at as the recording is.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Recording(TorchDispatchMode):
    """Lists every operation with what it takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self._made: set[StorageWeakRef] = set()
        # what was made stays as long as the record, as a graph keeps its memory
        self._unwritten: list[Tensor] = []
        self._operations: list[tuple[Any, Any, Any, dict[int, Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
        if name in _WAITS or (name in _BY_MASK and masks):
            raise NotReplayable(f"the host waits for the device: {func}")
        if name in _NO_KERNEL:
            raise NotReplayable(f"torch has no deterministic kernel on CUDA: {func}")
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        known = tree_map_only(Tensor, self._known, (args, kwargs))
        result = func(*args, **kwargs)
        leaves = {place: leaf for place, leaf in enumerate(tree_leaves(result)) if isinstance(leaf, Tensor)}
        fresh = {place: leaf.detach() for place, leaf in leaves.items() if _storage(leaf) not in given}
        self._made |= {_storage(leaf) for leaf in fresh.values()}
        if name in _UNWRITTEN:
            self._unwritten.extend(fresh.values())
        else:
            self._operations.append((func, *known, fresh))
        return result

    def _known(self, tensor: Tensor) -> Any:
        return tensor.detach() if _storage(tensor) in self._made else _Outside(tensor)

    @torch.no_grad()
    def again(self) -> None:
        for func, args, kwargs, written in self._operations:
            args, kwargs = tree_map_only(_Outside, _Outside.tensor, (args, kwargs))
            leaves = tree_leaves(func(*args, **kwargs))
            for place, static in written.items():
                if leaves[place].shape != static.shape:
                    raise NotReplayable(f"sizes depend on values: {func}")
                static.copy_(leaves[place])


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


class Replayed:
    """Stands in for `capture.Graphs`: the first call of a size is the work itself, the second is recorded while it is
    done, all others are done from the record.
    """

    def __init__(self, work: Callable[[Sizes], None], device: torch.device) -> None:
        self._work = work
        self._seen: set[Sizes] = set()
        self._records: dict[Sizes, _Recording] = {}

    @property
    def outcome(self) -> str:
        return CAPTURED if self._records else "too few steps to record one"

    @contextmanager
    def running(self) -> Iterator[None]:
        yield

    def __call__(self, sizes: Sizes) -> None:
        if sizes not in self._seen:
            self._seen.add(sizes)
            self._work(sizes)
        elif sizes in self._records:
            self._records[sizes].again()
        else:
            with _Recording() as self._records[sizes]:
                self._work(sizes)
