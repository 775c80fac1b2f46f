"""Single entries of frozen tensors that train: W' = W + scatter(values) with one value for each chosen entry."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention
from peftbench.interventions.remade import made_again


class SparseDelta(Intervention):
    """A plain module some of whose entries move: each of its `tensors` W acts as W + scatter(values).

    entries: name of a tensor of `base` -> ascending places in the flattened tensor, int64 [num_selected]. Its
    trainable values [num_selected] start at zero, so nothing changes at first; gradients, optimiser state and the
    saved file hold the chosen entries only. An optimiser's weight decay pulls values to zero, hence entries to their
    pretrained values and not to zero.
    """

    def __init__(self, base: nn.Module, entries: Mapping[str, Tensor]) -> None:
        super().__init__(base)
        if isinstance(base, Intervention):
            raise NotApplicable(f"entries are chosen in plain modules, not in a {type(base).__name__}")
        self.tensors = tuple(entries)
        for name, places in entries.items():
            tensor = getattr(base, name)
            self.register_buffer(f"{name}_places", places.to(tensor.device, torch.int64), persistent=False)
            self.register_parameter(f"{name}_values", nn.Parameter(tensor.new_zeros(len(places))))

    @property
    def bias(self) -> Any:
        """The bias of the wrapped module, for whoever trains it whole."""
        return getattr(self.base, "bias", None)

    def _moved(self, name: str) -> Tensor:
        """The tensor `name` of `base` with its chosen entries moved."""
        tensor: Tensor = getattr(self.base, name)
        places, values = getattr(self, f"{name}_places"), getattr(self, f"{name}_values")
        return tensor.flatten().index_add(0, places, values.to(tensor.dtype)).view_as(tensor)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional_call(self.base, {name: self._moved(name) for name in self.tensors}, (x,))
        return y

    def folded(self) -> nn.Module:
        plain: Any = copy.deepcopy(self.base)
        for name in self.tensors:
            getattr(plain, name).copy_(self._moved(name))
        return plain


class SparseChange(nn.Module):
    """W -> W + scale * transform(S), S of W's shape zero but for `values` [number] at chosen places, for `Rewritten`.

    places: of the flattened matrix, int64 [number]. `transform` leaves S as it is; subclasses override it.
    """

    places: Tensor

    def __init__(self, shape: torch.Size, places: Tensor, values: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        made_again(self, "places", places)
        self.shape, self.scale = shape, scale

    def transform(self, dense: Tensor) -> Tensor:
        """The change that the coefficients `dense` [out_dim, in_dim] stand for."""
        return dense

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        dense = self.values.new_zeros(self.shape.numel()).index_put((self.places,), self.values).view(self.shape)
        return weight + self.scale * self.transform(dense).to(weight.dtype), bias
