"""What a backbone does on a device it does without the host: it is sent nothing and waits for nothing.

The device is torch's `meta`, which has shapes and no numbers: whatever would wait for one ends there. Steps of methods
are held to it on CUDA alone (`test_steps`), since autocast, which some turn off, is unknown to that device. What
methods do when they look at images first is held to less: it may read the device, and must not mix it with the host.
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
from peftbench.cells.evidence import random_evidence
from peftbench.contracts.backbones import BUILDERS, make, suited
from peftbench.contracts.test_methods import LOOKING, fitting
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions import InsertTokens


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


class Mixed(Exception):
    """An operation on tensors of the host and of the device."""


class Apart(TorchDispatchMode):
    """Raises `Mixed`, as CUDA would an error. The host reads ones, halves or 0 to 3 in turn there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "aten::_local_scalar_dense" and args[0].is_meta:
            return torch.ones((), dtype=args[0].dtype).item()
        if name == "aten::_to_copy" and args[0].is_meta and torch.device(kwargs.get("device", "meta")).type == "cpu":
            read = torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            whole = torch.arange(read.numel()).view(read.shape) % 4
            return (read / 2) if read.is_floating_point() else whole.to(read.dtype)
        # numbers without axes may be of the host anywhere
        if name not in ("aten::copy_", "aten::_to_copy") and len({t.device.type for t in tensors if t.dim()}) > 1:
            raise Mixed(str(func))
        return func(*args, **kwargs)


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


@pytest.mark.parametrize("name", LOOKING)
def test_what_looks_at_images_first_stays_on_their_device(name: str) -> None:
    method = fitting(name)
    backbone = make(suited(type(method), "vit_cls"))
    backbone.to("meta")
    try:
        with Apart():
            method.observe(random_evidence(backbone))
    except NotApplicable:
        pass  # what was read of images that are not there does not suffice
    except (NotImplementedError, RuntimeError) as error:
        # what that device alone does not know ends the look there: autocast, and shapes that depend on numbers
        assert "meta" in str(error)


def test_tensors_left_on_the_host_are_seen() -> None:
    backbone = make("vit_cls")
    backbone.to("meta")
    site = backbone.sites("block")[0]
    site.wrap(lambda block: InsertTokens(block, 2, backbone.shape.width, 8, 1, dropout=0.0, strip=True))
    with pytest.raises(Mixed), Apart():
        backbone(torch.empty(2, *backbone.sample_shape, device="meta"))


def test_what_is_sent_by_the_host_is_seen() -> None:
    with pytest.raises(AssertionError), no_host():
        torch.empty(2, device="meta") + torch.arange(2).to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(2, device="meta").sum().item()
