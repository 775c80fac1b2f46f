"""What a method sees of a backbone: named places (sites), numbers (shape), and two verbs, wrap and unfreeze."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from peftbench.foundation.errors import NotApplicable

Kind = TypeVar("Kind", bound=nn.Module)


@dataclass(frozen=True)
class SiteShape:
    """Numbers of one place: its role, the block it belongs to (-1 outside the blocks), its widths, and its size.

    `num_parameters` counts everything below the place, for methods that train a whole block or a whole MLP.
    """

    role: str
    layer: int
    in_dim: int
    out_dim: int
    has_bias: bool
    num_parameters: int = 0


@dataclass(frozen=True)
class BackboneShape:
    """Numbers from which trainable-parameter counts follow in closed form, without looking at tensors.

    `width` is the width of the final features; hierarchical families have one width per stage, found in the
    `out_dim` of their `block` sites. `num_patches` and `grid` describe the tokens the blocks see (first stage).
    `num_positions` is the length of the learned position embedding, 0 where there is none. `frames` is the length of a
    clip, 1 where the backbone is given images. `times` is how many steps of time the tokens of one sequence hold: above
    1 in networks of clips, whose `grid` is that of one step and whose own attention mixes time. `tasks` is how many
    tasks read maps of it, those behind the blocks `tapped`; 1 and none where that was not said (`maps.serve`).
    """

    family: str
    width: int
    depth: int
    num_heads: int
    patch_size: int
    grid: tuple[int, int]
    num_prefix_tokens: int
    num_parameters: int
    sites: tuple[SiteShape, ...]
    num_positions: int = 0
    frames: int = 1
    times: int = 1
    tasks: int = 1
    tapped: tuple[int, ...] = ()

    @property
    def num_patches(self) -> int:
        return self.times * self.grid[0] * self.grid[1]

    def at(self, *roles: str) -> list[SiteShape]:
        """Shapes of all sites whose role is one of `roles`; `norm` also means `norm.pre`, `norm.final`, ..."""
        return [site for site in self.sites if any(matches(site.role, role) for role in roles)]


def matches(role: str, asked: str) -> bool:
    """A site answers to its own role and to the family of it: `norm.1` answers to `norm`.

    `attn` and `mlp` are modules of their own, so they do not stand for `attn.qkv` or `mlp.fc1`.
    """
    return role == asked or (asked == "norm" and role.startswith("norm."))


class Site:
    """A place in the network: the parent module and the attribute under which the child hangs.

    Parent and key stay right after an outer module is wrapped, where a dotted path would not.
    """

    def __init__(self, parent: nn.Module, key: str, shape: SiteShape, channel_dim: int = -1) -> None:
        self.parent, self.key, self.shape, self.channel_dim = parent, key, shape, channel_dim

    @property
    def module(self) -> nn.Module:
        return self.parent.get_submodule(self.key)

    @property
    def layer(self) -> int:
        return self.shape.layer

    def wrap(self, build: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """Replace the module by `build(module)`; the new module must keep the old one as `.base`."""
        new = build(self.module)
        setattr(self.parent, self.key, new)
        return new


@dataclass(frozen=True)
class InputSpec:
    """What the pretrained weights expect of an image: square size in px, channel statistics in [0, 1], resampling."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class Readout(nn.Module):
    """Tokens or maps -> pooled features, as the timm model itself does before its classifier."""

    net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # A plain reference, not a child: the network's tensors must be listed once.
        object.__setattr__(self, "net", net)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled: Tensor = self.net.forward_head(tokens, pre_logits=True)
        return pooled


class Stack(Protocol):
    """A transformer whose sequences may end in padding."""

    # of the sequences of its last pass, int64 [batch], where they end in padding
    lengths: Tensor | None

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """The modules of one kind in it, wrappers of a method among them, in order."""
        ...


class Backbone(nn.Module):
    """A timm model without classifier, with its sites. `forward(images)` gives pooled features [batch, feature_dim].

    `inputs` names what `forward` takes of a batch, in order. `maps.feature_maps` gives the second output.
    """

    inputs: tuple[str, ...] = ("image",)
    # of the sequences of the last pass, int64 [batch], where they end in padding
    lengths: Tensor | None = None

    def __init__(self, net: nn.Module, shape: BackboneShape, sites: Sequence[Site], input_spec: InputSpec) -> None:
        super().__init__()
        self.net = net
        self.readout: nn.Module = Readout(net)
        self.shape = shape
        self.input_spec = input_spec
        self.feature_dim = shape.width
        # in words, how a file of weights was read
        self.weights_read = ""
        self.weights_path: Path | None = None
        self._sites = tuple(sites)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.readout(self.net.forward_features(images))  # type: ignore[operator]
        return features

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        """The modules of one kind in it, wrappers of a method among them, in order."""
        return [module for module in self.modules() if isinstance(module, kind)]

    def sites(self, role: str, layers: Iterable[int] | None = None) -> list[Site]:
        """The sites of a role in order, optionally only those of some blocks.

        Raises `NotApplicable` when this family has no such place, naming the roles it has.
        """
        found = [site for site in self._sites if matches(site.shape.role, role)]
        if not found:
            roles = ", ".join(sorted({site.shape.role for site in self._sites}))
            raise NotApplicable(f"{self.shape.family} has no '{role}'; it has {roles}")
        if layers is None:
            return found
        wanted = set(layers)
        return [site for site in found if site.layer in wanted]

    @property
    def all_sites(self) -> tuple[Site, ...]:
        return self._sites

    @property
    def towers(self) -> dict[str, Backbone]:
        """The networks it consists of, by name: one of images, beside it one of texts in a pair."""
        return {"image": self}

    @property
    def stacks(self) -> Sequence[Stack]:
        """The transformers it consists of, each with sequences of its own: an encoder and a decoder are two."""
        return [self]

    def read_frames(self, wanted: str) -> None:
        """Pool the frames of clips the way `wanted`, see `frames.FrameFolded`; images have none to pool.

        Called once, behind `attach`.
        """

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample: [3, size, size], of a clip [frames, 3, size, size]."""
        frames = (self.shape.frames,) if self.shape.frames > 1 else ()
        return (*frames, 3, self.input_spec.size, self.input_spec.size)

    def require_clips(self, clips: Tensor) -> None:
        """Raises `ValueError` unless these are clips of the length this backbone was built for."""
        if clips.ndim != 5 or clips.shape[1] != self.shape.frames:
            wanted = f"[batch, {self.shape.frames}, 3, height, width]"
            raise ValueError(f"this backbone was built for clips {wanted} and was given {list(clips.shape)}")

    def freeze(self) -> None:
        self.requires_grad_(False)

    @property
    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    @property
    def first_batch_differs(self) -> bool:
        """Whether the first batch of a pass in evaluation computes what the others use, anew in each pass."""
        return False

    @property
    def against_capture(self) -> str:
        """Why steps through it must not be captured as CUDA graphs, in words; empty where nothing speaks against it."""
        return ""

    @property
    def num_pooled(self) -> int | None:
        """How many leading tokens the network's own pooling reads; None where it reads the patches as well."""
        if getattr(self.net, "global_pool", "avg") != "token":
            return None
        registers = getattr(self.net, "reg_token", None)
        return self.shape.num_prefix_tokens - (0 if registers is None else int(registers.shape[1]))

    @property
    def turns_keys(self) -> bool:
        """Whether rotary embeddings turn keys by their place, so that an offset common to all keys is not the same."""
        return getattr(self.net, "rope", None) is not None

    @property
    def pairs_places(self) -> bool:
        """Whether attention scores have a part for each pair of places on the grid: relative positions."""
        return any("rel_pos" in name or "relative_position" in name for name, _ in self.named_parameters())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def class_token_of(backbone: Backbone) -> list[nn.Parameter]:
    """The class token of the network in a list, which is empty where there is none."""
    token = getattr(backbone.net, "cls_token", None)
    return [token] if isinstance(token, nn.Parameter) else []


def unfreeze(*modules_or_parameters: nn.Module | nn.Parameter) -> None:
    """Let existing tensors train: named as objects, never by a pattern over their names."""
    for item in modules_or_parameters:
        item.requires_grad_(True)
