"""Self-attention written out once, with places for methods inside it: keys and values, extra keys, probabilities.

Wrapping modules cannot reach what lies between the fused qkv and the output projection, so this is the one place that
computes timm's attention again, for plain and windowed transformers; a test holds it equal to timm's. Where no hook
asks for the attention probabilities, they are never formed (`scaled_dot_product_attention`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.relative import RelativeAttention
from peftbench.backbones.rotary import resting
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention

# attention over one sequence, without windows; the last two turn queries and keys by their position
PLAIN = (Attention, EvaAttention, AttentionRope)


class AttentionHook(nn.Module):
    """One change of attention. Overrides what it needs; the defaults change nothing.

    x: [batch, length, width], the normed input. Keys, values: [batch, heads, length, head_dim].
    """

    # set where `rescale` is overridden: the probabilities must then be formed
    needs_probabilities = False

    def project(self, x: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Change the projected keys and values, before a norm on the keys."""
        return k, v

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put more keys and values in front; every query sees them, without positional bias."""
        return k, v

    def rescale(self, probabilities: Tensor) -> Tensor:
        """Change softmax(q k^T / sqrt(d)) [batch, heads, queries, keys]."""
        return probabilities

    def mix(self, q: Tensor, mixed: Tensor) -> Tensor:
        """Change what the queries brought back [batch, heads, length, head_dim], ahead of the output projection."""
        return mixed


class AttentionCore(Intervention):
    """timm's Attention, its rotary and relative forms or WindowAttention with hooks, in the order they came in."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        if not isinstance(base, (*PLAIN, WindowAttention, RelativeAttention)) or base.qkv is None:
            raise NotApplicable(f"attention of type {type(base).__name__} has no known core to change")
        self.hooks = nn.ModuleList()

    def forward(self, x: Tensor, rope: Tensor | None = None, **arguments: Any) -> Tensor:
        attn: Any = self.base
        q, k, v = split_heads(attn.qkv(x), attn.num_heads, 3)
        bias = _bias(attn, q, **arguments)
        hooks: Any = self.hooks
        for hook in hooks:
            k, v = hook.project(x, k, v)
        q, k = normed_heads(attn, q, k)
        q, k = turned(attn, q, rope), turned(attn, k, rope)
        for hook in hooks:
            k, v = hook.extend(k, v)
        if bias is not None and k.shape[2] > x.shape[1]:
            bias = F.pad(bias, (k.shape[2] - x.shape[1], 0), value=bias.dtype == torch.bool)
        scaling = [hook for hook in hooks if hook.needs_probabilities]
        mixed = _attend(attn, q, k, v, bias, scaling)
        for hook in hooks:
            mixed = hook.mix(q, mixed)
        return output(attn, x, mixed)


def hook_attention(attn: nn.Module, hooks: Sequence[AttentionHook]) -> nn.Module:
    """`attn` with `hooks`; adds to an existing AttentionCore rather than nesting a second one.

    Raises `NotApplicable` for attention of another kind.
    """
    core = attn if isinstance(attn, AttentionCore) else AttentionCore(attn)
    core.hooks.extend(hooks)
    return core


def split_heads(x: Tensor, num_heads: int, num_parts: int) -> tuple[Tensor, ...]:
    """[batch, length, parts * heads * head_dim] -> one [batch, heads, length, head_dim] for each part."""
    batch, length, _ = x.shape
    return x.reshape(batch, length, num_parts, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def normed_heads(attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys behind their norms, where the attention has any."""
    return (attn.q_norm(q), attn.k_norm(k)) if hasattr(attn, "q_norm") else (q, k)


def turned(attn: Any, heads: Tensor, rope: Tensor | None) -> Tensor:
    """Queries or keys [batch, heads, length, head_dim] turned by their place on the grid; prefix tokens have none."""
    if rope is None:
        return heads
    prefix, patches = heads[:, :, : attn.num_prefix_tokens], heads[:, :, attn.num_prefix_tokens :]
    angles = resting(rope, patches.shape[2])
    patches = apply_rot_embed_cat(patches, angles, half=getattr(attn, "rotate_half", False))
    return torch.cat([prefix, patches], dim=2).type_as(heads)


def output(attn: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """From the mixed values [batch, heads, queries, head_dim] of input x to the attention's output."""
    y = mixed.transpose(1, 2).flatten(2)
    if isinstance(attn, PLAIN):
        y = attn.norm(y)
        if getattr(attn, "gate", None) is not None:
            y = y * attn.gate(x).sigmoid()
    out: Tensor = attn.proj_drop(attn.proj(y))
    return out


def require_plain(attn: nn.Module) -> None:
    """Raises `NotApplicable` unless `attn` is of the plain kind that `heads_of` writes out."""
    if not isinstance(attn, PLAIN) or attn.qkv is None:
        raise NotApplicable(f"separate queries need a plain transformer's attention, not {type(attn).__name__}")


Heads = tuple[Tensor, Tensor, Tensor]


def heads_of(attn: Any, x: Tensor, rope: Tensor | None = None) -> Heads:
    """Queries, keys and values of x [batch, length, width] as they meet. `attn` must pass `require_plain`."""
    q, k, v = split_heads(attn.qkv(x), attn.num_heads, 3)
    q, k = normed_heads(attn, q, k)
    return turned(attn, q, rope), turned(attn, k, rope), v


def attend_self(attn: Any, x: Tensor, heads: Heads, rope: Tensor | None = None, **arguments: Any) -> Tensor:
    """Attention of x to itself, given its heads."""
    q, k, v = heads
    return output(attn, x, _attend(attn, q, k, v, _bias(attn, q, **arguments)))


def ask(attn: Any, queries: Tensor, heads: Heads) -> Tensor:
    """Attention of further `queries` [batch, number, width] to the sequence that the heads are of.

    They are no keys or values of anything, so what the sequence attends to is as without them. They have no place on
    the grid and do not turn.
    """
    further = attn.q_norm(split_heads(attn.qkv(queries), attn.num_heads, 3)[0])
    return output(attn, queries, _attend(attn, further, heads[1], heads[2], None))


def look_at(attn: Any, x: Tensor, seen: Tensor) -> Tensor:
    """Attention of x [batch, length, width] to the tokens `seen` [batch, number, width] and nothing else.

    Neither turns under rotary embeddings, as `seen` has no place on the grid. `attn` must pass `require_plain` and its
    qkv be a plain linear map, of which each side takes its part.
    """
    width = attn.qkv.out_features // 3
    weight, bias = attn.qkv.weight, attn.qkv.bias
    of_q, of_kv = (None, None) if bias is None else (bias[:width], bias[width:])
    (q,) = split_heads(F.linear(x, weight[:width], of_q), attn.num_heads, 1)
    k, v = split_heads(F.linear(seen, weight[width:], of_kv), attn.num_heads, 2)
    q, k = normed_heads(attn, q, k)
    return output(attn, x, _attend(attn, q, k, v, None))


def _bias(
    attn: Any,
    q: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    mask: Tensor | None = None,
    shared_rel_pos_bias: Tensor | None = None,
    shared_rel_pos: Tensor | None = None,
) -> Tensor | None:
    """What is added to the scores: the mask a plain block passes, relative positions, or a window's and shift mask."""
    if isinstance(attn, PLAIN):
        causal = q.new_full((q.shape[2], q.shape[2]), float("-inf")).triu(1) if is_causal else None
        return attn_mask if causal is None else causal
    if isinstance(attn, RelativeAttention):
        return attn.position_bias(q.shape[2], shared_rel_pos if shared_rel_pos_bias is None else shared_rel_pos_bias)
    position: Tensor = attn._get_rel_pos_bias()
    if mask is None:
        return position
    # windows are the fastest part of the batch axis
    return (position + mask.unsqueeze(1)).repeat(q.shape[0] // mask.shape[0], 1, 1, 1)


def _attend(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, hooks: Sequence[AttentionHook] = ()
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, with the probabilities formed only where `hooks` change them."""
    if not hooks:
        dropout = attn.attn_drop.p if attn.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    scores = (q * attn.scale) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else scores + bias
    probabilities = scores.softmax(dim=-1)
    for hook in hooks:
        probabilities = hook.rescale(probabilities)
    mixed: Tensor = attn.attn_drop(probabilities) @ v
    return mixed


class ExtraKeysValues(AttentionHook):
    """K' = [P_k; K], V' = [P_v; V] with learnable P_k, P_v [num_tokens, width], split over the heads like K and V.

    Drawn from N(0, 0.02). No queries are added, so the number of tokens stays. Keys enter behind a norm on the keys.
    """

    def __init__(self, num_tokens: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.normal(0.0, 0.02, (num_tokens, width)))
        self.values = nn.Parameter(torch.normal(0.0, 0.02, (num_tokens, width)))
        self.num_heads = num_heads

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return in_front(self.keys, k, self.num_heads), in_front(self.values, v, self.num_heads)


def in_front(tokens: Tensor, of: Tensor, num_heads: int) -> Tensor:
    """Tokens [number, width], split over the heads, ahead of keys or values [batch, heads, length, head_dim]."""
    return torch.cat([_heads_for(tokens, of, num_heads), of], dim=2)


def _heads_for(tokens: Tensor, of: Tensor, num_heads: int) -> Tensor:
    """Tokens [number, width] split over the heads, for every sample of `of` and in its precision."""
    (heads,) = split_heads(tokens.unsqueeze(0), num_heads, 1)
    return heads.expand(of.shape[0], -1, -1, -1).to(of.dtype)


class OwnKeysValues(AttentionHook):
    """Adds softmax(q P_k^T / sqrt(d)) P_v to what the queries bring back, P_k and P_v [num_tokens, width] per block.

    Unlike `ExtraKeysValues` the prefix takes no probability from the keys of the sequence. Both are drawn
    xavier-uniform as tensors [1, num_tokens, width]. Queries come behind their norm, where there is one.
    """

    def __init__(self, num_tokens: int, width: int, num_heads: int) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(torch.empty(1, num_tokens, width)) for _ in range(2))
        for tokens in (self.keys, self.values):
            nn.init.xavier_uniform_(tokens)
        self.num_heads = num_heads

    def mix(self, q: Tensor, mixed: Tensor) -> Tensor:
        k, v = (_heads_for(tokens, q, self.num_heads) for tokens in (self.keys[0], self.values[0]))
        return mixed + F.scaled_dot_product_attention(q, k, v)


class ValueScale(Intervention):
    """A fused qkv with values scaled head by head: softmax(...) (a_h v_h) = (a_h softmax(...)) v_h. a starts at 1."""

    def __init__(self, base: nn.Module, num_heads: int) -> None:
        super().__init__(base)
        self.scale = nn.Parameter(torch.ones(num_heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.base(x).chunk(3, dim=-1)
        return torch.cat([q, k, v * self._channels(v.shape[-1]).to(v.dtype)], dim=-1)

    def folded(self) -> nn.Module | None:
        if not isinstance(self.base, nn.Linear):
            return None
        plain = copy.deepcopy(self.base)
        width = plain.out_features // 3
        plain.weight[2 * width :] *= self._channels(width).unsqueeze(1)
        if plain.bias is not None:
            plain.bias[2 * width :] *= self._channels(width)
        return plain

    def _channels(self, width: int) -> Tensor:
        return self.scale.repeat_interleave(width // len(self.scale))
