"""What a backbone does on a device it does without the host: it is sent nothing and waits for nothing.

The device is torch's `meta`, which has shapes and no numbers: whatever would wait for one ends there. Methods are held
to it on CUDA alone (`test_steps`), since autocast, which some turn off, is unknown to that device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import BUILDERS, make


class Sent(TorchDispatchMode):
    """Lists the operations that read or write memory of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.operations.append(str(func))
        return result


@contextmanager
def no_host() -> Iterator[None]:
    with Sent() as sent:
        yield
    assert not sent.operations


def trained_there(backbone: Backbone) -> None:
    """Two passes with gradients, and one without; what the first does once for all does not count."""
    backbone.to("meta")
    images = torch.empty(2, *backbone.sample_shape, device="meta")
    backbone.train()
    backbone(images)
    with no_host():
        features: Tensor = backbone(images)
        features.sum().backward()
        with torch.inference_mode():
            backbone.eval()(images)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_pass_over_a_backbone_asks_nothing_of_the_host(name: str) -> None:
    backbone = make(name)
    backbone.requires_grad_()
    trained_there(backbone)


def test_what_is_sent_by_the_host_is_seen() -> None:
    with pytest.raises(AssertionError), no_host():
        torch.empty(2, device="meta") + torch.arange(2).to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(2, device="meta").sum().item()
