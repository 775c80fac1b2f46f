"""Cost of training: seconds, the bytes it has to keep, FLOPs, and peak memory. Measuring changes nothing."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from peftbench.train.batches import Batch
from peftbench.train.blocks import recomputed, replaced_forward
from peftbench.train.evaluate import kept_modes
from peftbench.train.loss import LossFn
from peftbench.train.options import OptimSpec
from peftbench.train.precision import autocast

T = TypeVar("T")


class Stopwatch:
    """Adds up named wall-clock seconds: `with watch.measure("train"): ...`, then `watch.seconds["train"]`.

    On CUDA the device is waited for at the two ends of a span and nowhere between; `synchronize=False` leaves even
    that out and measures the host only.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str, synchronize: bool = True) -> Iterator[None]:
        start = self._now(synchronize)
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now(synchronize) - start

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The same items; the host's time to make each one is booked under `name`."""
        iterator = iter(items)
        while True:
            with self.measure(name, synchronize=False):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _now(self, synchronize: bool) -> float:
        if self._device.type == "cuda" and synchronize:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def training_memory(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    optim: OptimSpec,
    precision: str = "fp32",
    recomputed_blocks: Sequence[nn.Module] = (),
) -> dict[str, int]:
    """Bytes one training step has to keep, as a sum that does not depend on an allocator.

    weights_bytes: all parameters and buffers. gradients_bytes: one value per trainable one.
    optimizer_bytes: AdamW two values per trainable one, SGD one (none without momentum).
    saved_bytes: what autograd keeps for the backward pass of `loss_fn(model, batch)` in train mode: the storages of all
    saved tensors, each counted once and whole, without those of parameters, buffers and the batch.
    Of `recomputed_blocks` their inputs are kept, and all that the largest of them keeps while its turn lasts.
    total_bytes: their sum. batch_size: samples in `batch`.

    Peak memory on a device is larger: it adds temporary values and what the allocator leaves unused. Saved bytes
    depend on the attention kernel of the device, so compare numbers from one kind of device.
    """
    weights = [*model.parameters(), *model.buffers()]
    given = {_address(tensor) for tensor in (*weights, *batch.values())}
    trainable = sum(_num_bytes(tensor) for tensor in model.parameters() if tensor.requires_grad)

    def forward() -> None:
        with autocast(next(iter(batch.values())).device, precision):
            model.train()
            loss_fn(model, batch)

    with undisturbed(model), recomputed(recomputed_blocks):
        saved = _kept_by(forward, given)
    turn = _largest_turn(model, forward, recomputed_blocks, given) if recomputed_blocks else 0
    states = 2 if optim.name != "sgd" else int(optim.momentum > 0)
    memory = {
        "weights_bytes": sum(map(_num_bytes, weights)),
        "gradients_bytes": trainable,
        "optimizer_bytes": states * trainable,
        "saved_bytes": sum(storage.nbytes() for storage in saved.values()) + turn,
    }
    return memory | {"total_bytes": sum(memory.values()), "batch_size": len(next(iter(batch.values())))}


def flops(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn = lambda model, batch: model(batch["image"]).sum(),
    inputs: Sequence[str] = ("image",),
    precision: str = "fp32",
) -> tuple[int, int]:
    """Floating-point operations per sample: (forward in eval mode, forward plus backward in train mode).

    A multiplication and an addition are two operations. Matrix products, convolutions and attention are counted, as
    torch runs them; elementwise work is not. The backward pass is the one the present `requires_grad` flags ask for,
    of `loss_fn` (which may run networks of its own), unless given that of the output's sum.

    batch: the probe, whose shapes alone matter; work done once per batch is shared among its samples. `inputs` names
    what of it the model takes, `precision` what it is run in, since frozen weights may be held in bfloat16.
    """
    num_samples = len(batch[inputs[0]])
    trainable = [tensor for tensor in model.parameters() if tensor.requires_grad]
    counts, device = [], batch[inputs[0]].device
    for training in (False, True):
        counter = FlopCounterMode(display=False)
        # Only this attention kernel is made of products that the counter knows on every device. Gradients stay on in
        # both passes: the counter's hooks do not bear views of trainable tensors that were made without.
        with undisturbed(model), sdpa_kernel(SDPBackend.MATH), counter, torch.enable_grad():
            model.train(training)
            with autocast(device, precision):
                loss = loss_fn(model, batch) if training else model(*(batch[name] for name in inputs))
            if training and trainable:
                # Not autograd.grad: the counter's hooks do not bear it when a module is called on a leaf tensor.
                loss.backward()
        counts.append(counter.get_total_flops() // num_samples)
    return counts[0], counts[1]


class PeakMemory:
    """Highest memory use since construction; `kind` says what the number is.

    cuda_allocated: bytes allocated by torch on the CUDA device. process_rss: resident memory of the whole process,
    libraries and data included, since construction. process_rss_since_start: the same, but since the process began,
    where the system offers no reset. The last two compare only within one machine.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if self._device.type == "cuda":
            # networks that refer to themselves stay on the device until Python looks for such circles
            gc.collect()
            torch.cuda.reset_peak_memory_stats(self._device)
            self.kind = "cuda_allocated"
        else:
            self.kind = "process_rss" if _reset_rss_peak() else "process_rss_since_start"

    def bytes(self) -> int:
        """The peak so far, in bytes."""
        if self.kind == "cuda_allocated":
            return torch.cuda.max_memory_allocated(self._device)
        if self.kind == "process_rss":
            return _status_bytes("VmHWM")
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Puts back what a pass in train mode changes: random generators, modes, buffers and gradients."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), kept_modes(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            for parameter, gradient in gradients:
                parameter.grad = gradient


def _kept_by(forward: Callable[[], object], given: set[int]) -> dict[int, torch.UntypedStorage]:
    """Storages that autograd keeps of a forward pass, by address, without the given ones."""
    # Holding the storages keeps an address from being used twice while counting.
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _address(tensor) not in given:
            saved[_address(tensor)] = tensor.untyped_storage()
        # Detached: a node of the graph that holds its own output would be a circle that nothing frees.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        forward()
    return saved


def _largest_turn(model: nn.Module, forward: Callable[[], None], blocks: Sequence[nn.Module], given: set[int]) -> int:
    """Bytes that the largest of the blocks keeps beside its input."""
    turns = [0]

    def counted(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def once(*inputs: Any, **arguments: Any) -> Tensor:
            outputs: list[Tensor] = []
            own = given | {_address(tensor) for tensor in inputs if isinstance(tensor, Tensor)}
            saved = _kept_by(lambda: outputs.append(call(*inputs, **arguments)), own)
            turns.append(sum(storage.nbytes() for storage in saved.values()))
            return outputs[0]

        return once

    with undisturbed(model), ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced_forward(block, counted(block.forward)))
        forward()
    return max(turns)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _reset_rss_peak() -> bool:
    """Sets the process's high-water mark to its present size (Linux, proc(5) clear_refs); False where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
