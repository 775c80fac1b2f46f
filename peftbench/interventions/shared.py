"""Parameters that several layers use: owned once by the backbone, referred to by the layers."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from peftbench.backbones.base import Backbone

Module = TypeVar("Module", bound=nn.Module)

OWNER = "shared"


def share(backbone: Backbone, name: str, module: Module) -> Module:
    """Register `module` under `name` on the backbone, so that it is counted, saved, copied and moved exactly once."""
    if not hasattr(backbone, OWNER):
        backbone.add_module(OWNER, nn.ModuleDict())
    backbone.get_submodule(OWNER).add_module(name, module)
    return module


def refer(user: nn.Module, attribute: str, module: object) -> None:
    """Let `user.attribute` be a module that is registered elsewhere; a plain reference that copies follow."""
    object.__setattr__(user, attribute, module)


def release(backbone: Backbone) -> None:
    """Drop the shared modules once merging has folded them into every layer that used them."""
    if hasattr(backbone, OWNER):
        delattr(backbone, OWNER)
