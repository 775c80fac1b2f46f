"""Class texts with contexts of a tree of tasks (HiPro, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.class_texts import Reader
from peftbench.interventions.context import STD, LearnedContext


class PathContext(LearnedContext):
    """Classes by the texts of all nodes on the path to their task: -> features [classes, joint].

    `nodes`: bool [nodes, tasks], which tasks lie below each node; `class_tasks`: of every class the number of its task.
    w_c is the mean over the nodes above it of w_nc / |w_nc|, w_nc the text of c in the context of node n. context:
    [nodes, tokens, width], each N(0, 0.02) or the embeddings of `words`. A name that a node has of several tasks is
    read once.
    """

    node: Tensor
    paths: Tensor

    def __init__(
        self,
        base: nn.Module,
        reader: Reader,
        names: Sequence[str],
        class_tasks: Sequence[int],
        nodes: Tensor,
        num_tokens: int,
        words: str = "",
    ) -> None:
        super().__init__(base, reader, names, num_tokens, words=words)
        first = self.context.detach()
        # drawn on the CPU: the same numbers on every device
        others = [first if words else torch.empty(first.shape).normal_(std=STD).to(first) for _ in nodes[1:]]
        self.context = nn.Parameter(torch.stack([first, *others]))
        texts: dict[tuple[int, str], int] = {}
        rows: list[int] = []
        above = [torch.nonzero(nodes[:, task]).flatten().tolist() for task in range(nodes.shape[1])]
        read_at: list[list[int]] = []
        for number, (name, task) in enumerate(zip(names, class_tasks, strict=True)):
            for node in above[task]:
                if (node, name) not in texts:
                    texts[node, name] = len(rows)
                    rows.append(number)
            read_at.append([texts[node, name] for node in above[task]])
        paths = torch.zeros(len(names), len(rows), dtype=torch.bool)
        for of_class, columns in zip(paths, read_at, strict=True):
            of_class[columns] = True
        device = first.device
        self.register_buffer("node", torch.tensor([node for node, _ in texts], device=device), persistent=False)
        self.register_buffer("paths", paths.to(device), persistent=False)
        self.ids, self.slots = self.ids[rows], self.slots[rows]

    def forward(self, reader: Reader, features: Tensor) -> Tensor:
        read = reader.text_features(self.embedded(reader, self.context[self.node]), reader.text.ends(self.ids))
        each = F.normalize(read, dim=-1)
        paths = self.paths.to(each.dtype)
        return paths @ each / paths.sum(dim=1, keepdim=True)
