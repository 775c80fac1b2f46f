"""DiTASK (Mantri et al., CVPR 2025, arXiv:2502.06029): frozen singular vectors, singular values warped by task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions import Intervention
from peftbench.interventions.diffeomorphism import warped
from peftbench.interventions.paths import FORKED, Fork, Forked, forked, forks
from peftbench.methods.base import METHODS, Method
from peftbench.methods.mtlora import num_retrained, retrain


class Spectrum(nn.Module):
    """Singular values and vectors of a frozen weight [out_dim, in_dim], cut into equal parts of its rows."""

    u: Tensor
    s: Tensor
    vt: Tensor

    def __init__(self, weight: Tensor, num_parts: int) -> None:
        super().__init__()
        parts = exact(weight.detach()).unflatten(0, (num_parts, -1))
        for name, tensor in zip(("u", "s", "vt"), torch.linalg.svd(parts, full_matrices=False), strict=True):
            self.register_buffer(name, tensor.contiguous(), persistent=False)

    def change(self, theta: Tensor) -> Tensor:
        """W' - W [out_dim, in_dim] for the spectra of all parts warped by one theta."""
        with torch.autocast(theta.device.type, enabled=False):
            moved = warped(self.s, theta[0].to(self.s.dtype)) - self.s
            return ((self.u * moved.unsqueeze(1)) @ self.vt).flatten(0, 1)


def new_theta(cells: int) -> nn.Parameter:
    """theta, kaiming-uniform with a = sqrt(5): within 1 / sqrt(cells - 1). One row [1, cells - 1], and so decayed."""
    bound = 1 / math.sqrt(cells - 1)
    return nn.Parameter(torch.empty(1, cells - 1).uniform_(-bound, bound))


class WarpedLinear(Intervention):
    """y = U diag(f(S)) V^T dropout(x) + b, f the warp of theta; a fused qkv is three matrices with one theta."""

    def __init__(self, base: nn.Module, num_parts: int, cells: int, dropout: float) -> None:
        super().__init__(base)
        self.spectrum, self.theta = _spectrum(base, num_parts), new_theta(cells)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return _rewritten(self.base, self.dropout(x), self.spectrum.change(self.theta))


class WarpedPaths(Forked):
    """The same on the shared path, and y_t = U diag(f_t(S)) V^T x_t + b on the path of task t.

    Dropout acts on x; where the paths begin, all of them read it behind that one mask.
    """

    def __init__(self, base: nn.Module, opens: bool, tasks: int, cells: int, task_cells: int, dropout: float) -> None:
        super().__init__(base, tasks, opens)
        self.spectrum, self.theta = _spectrum(base, 1), new_theta(cells)
        self.own = nn.ParameterList(new_theta(task_cells) for _ in range(tasks))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x, *own = self.paths(x)
        x = self.dropout(x)
        given = [x] * self.tasks if self.opens else own
        thetas = [self.theta, *self.own]
        return torch.cat(
            [
                _rewritten(self.base, path, self.spectrum.change(theta))
                for path, theta in zip([x, *given], thetas, strict=True)
            ]
        )


def _spectrum(base: nn.Module, num_parts: int) -> Spectrum:
    if not isinstance(base, nn.Linear):
        raise NotApplicable(f"ditask takes a linear map apart, not a {type(base).__name__}")
    return Spectrum(base.weight, num_parts)


def _rewritten(base: nn.Module, x: Tensor, change: Tensor) -> Tensor:
    weight, bias = base.weight, base.bias
    return F.linear(x, weight + change.to(weight.dtype), bias)  # type: ignore[operator, arg-type]


@METHODS.add("ditask")
@dataclass(frozen=True)
class DiTASK(Method):
    """W' = U diag(f(S)) V^T with f a learned warp, in the places of `mtlora`: one for all tasks, and one for each.

    The singular values of a frozen matrix, in falling order, are a function over [0, 1]; f moves the places where it is
    read along a continuous piecewise affine velocity, so that their order stays (sections 3 and 4). `cells` for the
    shared warp and `task_cells` for those of tasks give cells - 1 numbers each. What else trains, and the norm ahead of
    the last map, are as in `mtlora`. Not the identity at the start, as in the released code.
    """

    family: ClassVar[str] = "reparametrisation"
    paper: ClassVar[str] = "arXiv:2502.06029"
    version: ClassVar[int] = 2
    by_task: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "cells"

    cells: int = option(64, ge=2)
    task_cells: int = option(4, ge=2)
    dropout: float = option(0.05, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        retrain(backbone)
        tasks, tapped = backbone.shape.tasks, backbone.shape.tapped
        for site in backbone.all_sites:
            role = site.shape.role
            if role == "attn.qkv" or (role in FORKED and site.layer not in tapped):
                parts = 3 if role == "attn.qkv" else 1
                site.wrap(partial(WarpedLinear, num_parts=parts, cells=self.cells, dropout=self.dropout))
        for site, opens in forked(backbone):
            site.wrap(partial(self._forked, opens=opens, tasks=tasks))
        for site, facts in forks(backbone):
            site.wrap(partial(Fork, **facts))

    def _forked(self, base: nn.Module, opens: bool, tasks: int) -> WarpedPaths:
        return WarpedPaths(base, opens, tasks, self.cells, self.task_cells, self.dropout)

    def expected_params(self, shape: BackboneShape) -> int:
        shared = (self.cells - 1) * len(shape.at("attn.qkv", *FORKED))
        tapped = [site for site in shape.at(*FORKED) if site.layer in shape.tapped]
        return shared + shape.tasks * (self.task_cells - 1) * len(tapped) + num_retrained(shape)

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """The shared warps of the last block's paths: what they give goes nowhere, as no task's path reads it."""
        last = backbone.sites("block")[-1].module
        idle = {id(module.theta) for module in last.modules() if isinstance(module, WarpedPaths)}
        return {name: slice(None) for name, tensor in backbone.trainable if id(tensor) in idle}
