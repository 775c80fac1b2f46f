"""HiPro (Liu et al., CVPR 2023, pp. 10888-10898): contexts for each task and for each group of a tree of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions import LearnedContext, PathContext
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.of_pair import OfPair
from peftbench.methods.pair_features import BATCH, features_of, pair_of

# the rate of the optimiser that trains the contexts
LOOK_AHEAD = 0.002


@METHODS.add("hipro")
@dataclass(frozen=True)
class HiPro(OfPair):
    """Task-shared contexts at the inner nodes of a task tree, task-individual ones at its leaves.

    A context that all tasks share takes one step of `LOOK_AHEAD` down the loss of task i; the affinity of i with j is
    1 - L_j behind the step / L_j ahead of it. Tasks are joined by average linkage of the mean of both directions. The
    text feature of a class is the mean over the nodes above it, each of length 1. T tasks have 2 T - 1 nodes:
    (2 T - 1) M D parameters. With one task it is CoOp.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "Liu et al., CVPR 2023"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "No code is published: how affinity is measured, tasks are joined and a path's contexts are combined is ours."
    )

    num_tokens: int = option(16, ge=1)
    words: str = option("")

    def observe(self, evidence: Evidence) -> Findings:
        pair, _ = pair_of(self.name, evidence.backbone)
        if len(set(pair.class_tasks)) == 1:
            return {"nodes": torch.ones(1, 1, dtype=torch.bool)}
        features, labels = features_of(pair, evidence.images(BATCH))
        affinity = self._affinity(pair, features, labels)
        return {"nodes": tree_of(affinity), "affinity": affinity}

    def _affinity(self, pair: Pair, features: Tensor, labels: Tensor) -> Tensor:
        """[tasks, tasks]: by how much of itself the loss of task j falls when the context steps down that of i."""
        shared = LearnedContext(pair.texts, pair, pair.class_names, self.length, words=self.words)
        tasks = torch.tensor(pair.class_tasks, device=pair.device)

        def losses() -> Tensor:
            logits = exact(pair.match(features, shared(pair, features)))
            each = losses_apart(logits, labels, tasks)
            return torch.stack([each[tasks[labels] == task].mean() for task in range(len(set(pair.class_tasks)))])

        with torch.enable_grad():
            before = losses()
            slopes = [torch.autograd.grad(loss, shared.context, retain_graph=True)[0] for loss in before]
        start = shared.context.detach().clone()
        found = []
        with torch.no_grad():
            for slope in slopes:
                shared.context.copy_(start - LOOK_AHEAD * slope)
                found.append(1 - losses() / before)
        return torch.stack(found).detach().cpu()

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        pair, _ = pair_of(self.name, backbone)
        names, tasks = pair.class_names, pair.class_tasks
        pair.classes = PathContext(pair.texts, pair, names, tasks, findings["nodes"], self.length, self.words)

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        return (2 * image.num_tasks - 1) * self.length * text.width

    @property
    def length(self) -> int:
        """How many vectors a context has."""
        return len(self.words.split()) or self.num_tokens

    def summary(self, findings: Findings) -> dict[str, Any]:
        groups: Sequence[Tensor] = [row for row in findings["nodes"] if row.sum() > 1]
        return {"groups": [torch.nonzero(row).flatten().tolist() for row in groups]}


def losses_apart(logits: Tensor, labels: Tensor, tasks: Tensor) -> Tensor:
    """Cross-entropy of every image among the classes of its own task, [images]; `tasks`: int64 [classes]."""
    apart = logits.masked_fill(tasks != tasks[labels][:, None], -torch.inf)
    return F.cross_entropy(apart, labels, reduction="none")


def tree_of(affinity: Tensor) -> Tensor:
    """Which tasks lie below each node, bool [2 tasks - 1, tasks]: the leaves, then groups in the order of joining.

    Average linkage over the mean of both directions of `affinity` [tasks, tasks]; of equals the first are joined.
    """
    alike = (affinity + affinity.T) / 2
    nodes = list(torch.eye(len(affinity), dtype=torch.bool))
    roots = list(range(len(nodes)))
    while len(roots) > 1:
        pairs = [(a, b) for at, a in enumerate(roots) for b in roots[at + 1 :]]
        first, second = max(pairs, key=lambda pair: float(alike[nodes[pair[0]]][:, nodes[pair[1]]].mean()))
        nodes.append(nodes[first] | nodes[second])
        roots = [root for root in roots if root not in (first, second)] + [len(nodes) - 1]
    return torch.stack(nodes)
