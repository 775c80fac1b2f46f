"""Parameter groups, optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from peftbench.foundation.errors import ConfigError
from peftbench.train.options import OptimSpec

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def param_groups(
    method_params: NamedParameters,
    head_params: NamedParameters,
    spec: OptimSpec,
    scale_of: Callable[[str], float] = lambda _: 1.0,
) -> list[dict[str, Any]]:
    """Optimiser groups {method, head} x {decay, no_decay}; empty ones are left out.

    Tensors with at most one axis (biases, norms, scales) get no weight decay unless `decay_vectors` asks for it, and
    none does whose name holds a word of `undecayed` (mmcv's `custom_keys` with a `decay_mult` of 0). Each group carries
    its `name`, the `names` of its tensors and its `lr_scale`; where `scale_of` the name of a method's tensor is not 1,
    such tensors make groups of their own.

    Raises `ConfigError` when there is nothing to train.
    """
    owners: dict[tuple[str, float], list[tuple[str, nn.Parameter]]] = {}
    for name, tensor in method_params:
        owners.setdefault(("method", scale_of(name)), []).append((name, tensor))
    owners["head", spec.head_lr_scale] = list(head_params)
    groups = []
    for (owner, lr_scale), tensors in owners.items():
        own = f"{owner} x {lr_scale:g}" if owner == "method" and lr_scale != 1 else owner
        for kind, decays in (("decay", True), ("no_decay", False)):
            chosen = [(name, tensor) for name, tensor in tensors if _decays(name, tensor, spec) == decays]
            if chosen:
                groups.append(
                    {
                        "name": f"{own}/{kind}",
                        "names": [name for name, _ in chosen],
                        "params": [tensor for _, tensor in chosen],
                        "lr": spec.lr * lr_scale,
                        "lr_scale": lr_scale,
                        "weight_decay": spec.weight_decay if decays else 0.0,
                    }
                )
    if not groups:
        raise ConfigError(["nothing to train: neither the method nor the head has a trainable tensor"])
    return groups


def trained_of(head: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What trains of a head, by name; some hold frozen tensors as well, such as SAM's prompt encoder."""
    return [(name, tensor) for name, tensor in head.named_parameters(prefix="head") if tensor.requires_grad]


def _decays(name: str, tensor: Tensor, spec: OptimSpec) -> bool:
    return (tensor.ndim > 1 or spec.decay_vectors) and not any(word in name for word in spec.undecayed)


def require_words(names: Sequence[str], spec: OptimSpec) -> None:
    """Raises `ConfigError` where a word of `undecayed` stands in none of the names of what trains."""
    for word in spec.undecayed:
        if not any(word in name for name in names):
            some = ", ".join(names[:3])
            raise ConfigError([f"optim.undecayed: '{word}' is in no name of what trains, such as {some}; leave it out"])


def build_optimizer(groups: list[dict[str, Any]], spec: OptimSpec) -> Optimizer:
    """AdamW (arXiv:1711.05101), Adam (arXiv:1412.6980) or SGD with momentum over `groups`; fused where torch can.

    On CUDA its state lies on the device, so that a step can be captured.
    """
    tensors = [tensor for group in groups for tensor in group["params"]]
    fused = all(tensor.is_floating_point() and tensor.device.type in ("cuda", "cpu") for tensor in tensors)
    if spec.name != "sgd":
        first, second = spec.betas
        kind = torch.optim.AdamW if spec.name == "adamw" else torch.optim.Adam
        on_device = fused and tensors[0].is_cuda
        return kind(groups, spec.lr, (first, second), spec.eps, fused=fused, capturable=on_device)
    optimizer = torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, fused=fused)
    if spec.momentum > 0:
        # Zeros give the same first step. torch makes them in it: unwritten where a scaler skips its update, none for a
        # tensor whose first gradient comes later.
        for tensor in tensors:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return optimizer


class Schedule:
    """Learning rate per optimiser step: linear from `warmup_lr` to `lr`, then a half cosine towards `min_lr`.

    With W = warmup_epochs * steps_per_epoch (rounded) and T all steps, step s = 0 .. T-1 uses
    warmup_lr + (lr - warmup_lr) * s / W before W, and from W on
    min_lr + (lr - min_lr) * (1 + cos(pi (s-W) / (T-W))) / 2.

    `spec.schedule` `epochs` (Dassl's constant warm-up ahead of torch's cosine): with w warm-up epochs of E, epoch
    e = 0 .. E-1 uses warmup_lr before w, in every group alike, and from w on
    min_lr + (lr - min_lr) * (1 + cos(pi (e-w) / E)) / 2, which does not reach its end.

    `poly` (mmsegmentation's polynomial rate, counted by iterations): behind the warm-up of `steps`,
    min_lr + (lr - min_lr) * (1 - (s-W) / (T-W)) ** power.
    """

    def __init__(self, spec: OptimSpec, epochs: int, steps_per_epoch: int) -> None:
        self._spec = spec
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self.num_steps = epochs * steps_per_epoch
        self.num_warmup_steps = round(spec.warmup_epochs * steps_per_epoch)

    def lr_at(self, step: int) -> float:
        """The rate of step `step` (from 0), before a group's `lr_scale`."""
        spec, warmup = self._spec, self.num_warmup_steps
        if spec.schedule == "epochs":
            behind = step // self._steps_per_epoch - int(spec.warmup_epochs)
            return spec.warmup_lr if self.is_constant(step) else self._cosine(behind / self._epochs)
        if step < warmup:
            return spec.warmup_lr + (spec.lr - spec.warmup_lr) * step / warmup
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        if spec.schedule == "poly":
            return spec.min_lr + (spec.lr - spec.min_lr) * (1 - progress) ** spec.power
        return self._cosine(progress)

    def is_constant(self, step: int) -> bool:
        """Whether step `step` is of a warm-up at one rate, which is that of every group."""
        spec = self._spec
        return spec.schedule == "epochs" and step // self._steps_per_epoch < int(spec.warmup_epochs)

    def rate_at(self, step: int, lr_scale: float) -> float:
        """The rate of step `step` in a group of `lr_scale`."""
        return self.lr_at(step) * (1.0 if self.is_constant(step) else lr_scale)

    def _cosine(self, progress: float) -> float:
        spec = self._spec
        return spec.min_lr + (spec.lr - spec.min_lr) * (1 + math.cos(math.pi * progress)) / 2

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Sets the rate of every group for `step`; returns the rate before scaling."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate_at(step, group["lr_scale"])
        return self.lr_at(step)


class HostRates:
    """Sets the rates of the next step, one after another, as numbers."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule) -> None:
        self._optimizer, self._schedule, self._next = optimizer, schedule, 0

    def advance(self) -> None:
        self._schedule.apply(self._optimizer, self._next)
        self._next += 1


class DeviceRates:
    """The same on the device, which holds the rates of all steps in float32 and counts the steps itself."""

    def __init__(self, optimizer: Optimizer, schedule: Schedule, device: torch.device) -> None:
        steps, scales = range(schedule.num_steps), [group["lr_scale"] for group in optimizer.param_groups]
        rates = [[schedule.rate_at(step, scale) for step in steps] for scale in scales]
        self._rates = torch.tensor(rates, device=device)
        self._now: Tensor = self._rates[:, :1].clone()
        self._next = torch.zeros(1, dtype=torch.int64, device=device)
        for group, rate in zip(optimizer.param_groups, self._now, strict=True):
            group["lr"] = rate[0]

    def advance(self) -> None:
        torch.index_select(self._rates, 1, self._next, out=self._now)
        self._next += 1


def rates(optimizer: Optimizer, schedule: Schedule, device: torch.device) -> HostRates | DeviceRates:
    """On CUDA the device sets its rates, so that a step needs nothing of the host."""
    return DeviceRates(optimizer, schedule, device) if device.type == "cuda" else HostRates(optimizer, schedule)
