"""MmAP (Xin et al., AAAI 2024, arXiv:2312.08636): prompts of both towers from one source, of tasks and of groups."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.pair import Pair, both_shapes
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.exact import exact
from peftbench.foundation.spec import option
from peftbench.interventions import AppendTokens, ReplaceTokens, append_ahead
from peftbench.interventions.aligned import Aligned, AlignedContext, OfClasses, OfImages
from peftbench.methods.base import METHODS
from peftbench.methods.hipro import losses_apart, tree_of
from peftbench.methods.ivlp import require_one_sequence
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.of_pair import OfPair
from peftbench.methods.pair_features import pair_of

# images of which the gradient is taken at once
BATCH = 32


@METHODS.add("mmap")
@dataclass(frozen=True)
class MmAP(OfPair):
    """P_text = K_t kron P_s, P_image = K_v kron P_s, of every task and of every group of tasks, in `depth` blocks.

    P_s is [source_tokens, d], K_t and K_v [copies, width / d], d the greatest common divisor of both widths and
    `source_width`. Text: the prompts of the group and then of the task stand ahead of the class name; image: at the end
    of the sequence, ahead of a norm that stands before the first block; new ones ahead of each further block. Tasks are
    grouped by the cosine between the gradients that a prompt of all tasks has from each, at its start, by average
    linkage down to `groups`. With T tasks and G groups (T + G) J (b d + m (D_t + D_v) / d) parameters; one task has no
    group.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2312.08636"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "source_tokens"
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "No code is published: all sizes, the start, the depth and how groups are cut off the tree of tasks are ours."
    )

    source_tokens: int = option(8, ge=1)
    source_width: int = option(256, ge=1)
    copies: int = option(1, ge=1)
    depth: int = option(9, ge=1)
    groups: int = option(2, ge=1)

    def observe(self, evidence: Evidence) -> Findings:
        pair, _ = pair_of(self.name, evidence.backbone)
        require_one_sequence(self.name, pair.image)
        tasks = len(set(pair.class_tasks))
        if tasks == 1:
            return {"members": torch.zeros(1, 1, dtype=torch.int64)}
        if self.groups > tasks:
            raise NotApplicable(
                f"method.groups = {self.groups} is more than the {tasks} tasks of this data; take {tasks} or fewer"
            )
        slopes = self._slopes(evidence, copy.deepcopy(pair))
        unit = F.normalize(slopes, dim=1)
        affinity = (unit @ unit.T).cpu()
        groups = groups_of(affinity, self.groups)
        members = torch.stack([tasks + groups, torch.arange(tasks)], dim=1)
        return {"members": members, "affinity": affinity}

    def _slopes(self, evidence: Evidence, pair: Pair) -> Tensor:
        """[tasks, parameters]: the gradient of the mean loss of each task in prompts that all of them share."""
        of_class = torch.tensor(pair.class_tasks, device=pair.device)
        tasks = len(set(pair.class_tasks))
        self._attach(pair, torch.zeros(tasks, 1, dtype=torch.int64))
        pair.to(of_class.device).eval()
        trained = [tensor for _, tensor in pair.trainable]
        sums = [torch.zeros(sum(tensor.numel() for tensor in trained), device=of_class.device) for _ in range(tasks)]
        counts = torch.bincount(of_class, minlength=tasks).zero_()
        for batch in evidence.images(BATCH):
            now = of_class[batch["label"]]
            counts += torch.bincount(now, minlength=tasks)
            with torch.enable_grad():
                each = losses_apart(exact(pair(batch["image"], now)), batch["label"], of_class)
                for task in now.unique().tolist():
                    found = torch.autograd.grad(each[now == task].sum(), trained, retain_graph=True)
                    sums[task] += torch.cat([slope.flatten() for slope in found])
        return torch.stack(sums) / counts.clamp(min=1)[:, None]

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        pair, _ = pair_of(self.name, backbone)
        require_one_sequence(self.name, pair.image)
        self._attach(pair, findings["members"])

    def _attach(self, pair: Pair, members: Tensor) -> None:
        image, text = pair.image, pair.text
        widths = text.shape.width, image.shape.width
        source, depth = self._source(*widths), self._depth(pair.shape)
        made = [Aligned(members, self.source_tokens, self.copies, source, *widths) for _ in range(depth)]
        of_texts = [OfClasses(prompts, pair.class_tasks).to(pair.device) for prompts in made]
        first, *later = (OfImages(prompts, pair) for prompts in made)
        pair.classes = AlignedContext(pair.texts, pair, pair.class_names, of_texts[0])
        append_ahead(image, first)
        blocks = range(1, depth)
        places = zip(text.sites("block", blocks), image.sites("block", blocks), of_texts[1:], later, strict=True)
        for in_text, in_image, of_text, of_image in places:
            in_text.wrap(partial(ReplaceTokens, tokens=of_text, start=1))
            in_image.wrap(partial(AppendTokens, tokens=of_image, replace=True))
        if len(members) > 1:
            pair.inputs = (*image.inputs, "task")

    def _source(self, text: int, image: int) -> int:
        return math.gcd(self.source_width, text, image)

    def _depth(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        return min(self.depth, image.depth, text.depth)

    def expected_params(self, shape: BackboneShape) -> int:
        image, text = both_shapes(shape)
        source = self._source(text.width, image.width)
        each = self.source_tokens * source + self.copies * (text.width + image.width) // source
        units = image.num_tasks + (min(self.groups, image.num_tasks) if image.num_tasks > 1 else 0)
        return units * self._depth(shape) * each

    def summary(self, findings: Findings) -> dict[str, Any]:
        members = findings["members"]
        groups = members[:, 0].unique().tolist() if members.shape[1] > 1 else []
        return {"groups": [torch.nonzero(members[:, 0] == group).flatten().tolist() for group in groups]}


def groups_of(affinity: Tensor, number: int) -> Tensor:
    """Of every task its group, int64 [tasks], groups in the order of their first task: the tree cut at `number`."""
    tasks = len(affinity)
    nodes = tree_of(affinity)[: 2 * tasks - number]
    # joined later is larger
    above = [int(torch.nonzero(nodes[:, task]).max()) for task in range(tasks)]
    order = list(dict.fromkeys(above))
    return torch.tensor([order.index(node) for node in above])
