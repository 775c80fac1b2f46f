"""HyperPrompt-Global (He et al., ICML 2022, arXiv:2203.00759): one network makes the prefixes of all tasks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import AttentionHook, hook_attention, in_front, refer, share
from peftbench.interventions.paths import EachTask, for_each
from peftbench.methods.base import METHODS, Method


class HyperNetwork(nn.Module):
    """(task, layer) -> prefixes of keys and values, [num_tokens, width] each: U relu(D P_t), U and D made by z.

    z = LN(k_t || k_l) of the embeddings of task and layer; D = reshape(H_D z) / sqrt(width) [bottleneck, width] and
    U = reshape(H_U z) / sqrt(bottleneck) [width, bottleneck], two pairs of them. H are kaiming-uniform with a = sqrt(5)
    without bias, P_t and k are drawn from N(0, 1): D and U then start as large as linear maps do.
    """

    def __init__(self, tasks: int, layers: int, width: int, num_tokens: int, bottleneck: int, embedding: int) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.randn(tasks, num_tokens, width))
        self.of_task = nn.Parameter(torch.randn(tasks, embedding))
        self.of_layer = nn.Parameter(torch.randn(layers, embedding))
        self.norm = nn.LayerNorm(2 * embedding)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for maps in (self.down, self.up):
            for name in ("of_keys", "of_values"):
                maps[name] = nn.Parameter(torch.empty(bottleneck * width, 2 * embedding))
                nn.init.kaiming_uniform_(maps[name], a=math.sqrt(5))

    def forward(self, name: str, task: int, layer: int) -> Tensor:
        prompt = self.prompts[task]
        z = self.norm(torch.cat([self.of_task[task], self.of_layer[layer]]))
        width = prompt.shape[1]
        down = F.linear(z, self.down[name]).view(-1, width) / math.sqrt(width)
        up = F.linear(z, self.up[name]).view(width, -1) / math.sqrt(len(down))
        return F.linear(F.relu(F.linear(prompt, down)), up)


class MadeKeysValues(AttentionHook):
    """K' = [made keys; K] and V' = [made values; V] for the samples of each task, [tasks * batch, ...].

    Keys enter behind a norm on the keys.
    """

    network: HyperNetwork

    def __init__(self, network: HyperNetwork, layer: int, tasks: int, num_heads: int) -> None:
        super().__init__()
        refer(self, "network", network)
        self.layer, self.tasks, self.num_heads = layer, tasks, num_heads

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self._ahead("of_keys", k), self._ahead("of_values", v)

    def _ahead(self, name: str, of: Tensor) -> Tensor:
        def one(task: int, part: Tensor) -> Tensor:
            return in_front(self.network(name, task, self.layer), part, self.num_heads)

        return for_each(one, of, self.tasks)


@METHODS.add("hyperprompt_global")
@dataclass(frozen=True)
class HyperPromptGlobal(Method):
    """softmax(q [h_k(P_t); K]^T / sqrt(d)) [h_v(P_t); V], h = U relu(D .) made from embeddings of task and layer.

    Every task runs through the network on its own, since its prefixes act in every block. Stages of other widths (Swin)
    have a network and prompts of their own. The paper's form for several tasks; `hyperprompt` is that of one. Sizes and
    initialisation are chosen here. T p D + (T + L) e + 4 e + 8 b D e parameters on a plain ViT, for T tasks,
    p = `num_tokens`, b = `bottleneck` and e = `embedding`.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2203.00759"
    by_task: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "Made for language tasks with T5; here the tasks are maps of one image."

    num_tokens: int = option(10, ge=1)
    bottleneck: int = option(8, ge=1)
    embedding: int = option(16, ge=1)

    def attach(self, backbone: Backbone) -> None:
        tasks = backbone.shape.tasks
        numbers = Counter(qkv.shape.in_dim for qkv in backbone.sites("attn.qkv"))
        networks = {
            width: share(backbone, f"hyper_{width}", HyperNetwork(tasks, number, width, *self._sizes))
            for width, number in numbers.items()
        }
        seen: Counter[int] = Counter()
        for site, qkv in zip(backbone.sites("attn"), backbone.sites("attn.qkv"), strict=True):
            width, heads = qkv.shape.in_dim, int(site.module.num_heads)  # type: ignore[arg-type]
            hook = MadeKeysValues(networks[width], seen[width], tasks, heads)
            seen[width] += 1
            site.wrap(partial(hook_attention, hooks=[hook]))
        backbone.net = EachTask(backbone.net, tasks)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        return self.num_tokens, self.bottleneck, self.embedding

    def expected_params(self, shape: BackboneShape) -> int:
        widths = [site.in_dim for site in shape.at("attn.qkv")]
        p, b, e = self._sizes
        each = [shape.tasks * (p * width + e) + 4 * e + 8 * b * width * e for width in set(widths)]
        return sum(each) + e * len(widths)
