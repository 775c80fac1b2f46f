"""PRO-VPT (Shang et al., ICCV 2025, arXiv:2503.06901): between epochs an idle prompt moves to another block."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions.relocated import EnterPrompts, Prompts
from peftbench.interventions.shared import share
from peftbench.methods.base import METHODS, Method
from peftbench.methods.observation import Survey
from peftbench.methods.relocation import POLICIES, Policy, policy_of
from peftbench.methods.vpt import token_sequence

# what is left of a prompt that moves, as released
KEPT = 1e-3


class Relocation:
    """Ahead of an epoch a pass without steps; the last move is rewarded and, from `warmup_epochs` on, one more made.

    A prompt's score is the mean over batches of the gradient of a gate of 1 on it, <dL/dp, p>: by how much the loss
    would fall if it were zero, to the first order. These and the gradients of all that trains beside the prompts are
    clipped together where steps are (`optim.clip_norm`). The loss is the sum over batches of their mean loss divided by
    their size. Both are so in the released code. Of a batch whose gradients overflow in half precision, which the
    released code does not train in, the scores are left out; its loss stays in the sum.

    The prompt of the greatest score leaves its block where that score is above zero, for the block that the policy
    chooses; its own leaves it as it is. The reward is by how much the loss fell, less the greatest score now.
    """

    def __init__(self, prompts: list[Prompts], survey: Survey, warmup_epochs: int, policy: str, seed: int) -> None:
        self._all, self._survey, self._warmup_epochs = prompts, survey, warmup_epochs
        self._policies = [policy_of(policy, own.num_blocks, seed, number) for number, own in enumerate(prompts)]
        self._loss = float("inf")
        self._moved = [False] * len(prompts)

    def __call__(self, epoch: int) -> None:
        loss, scores = self._look(epoch)
        for number, (prompts, own) in enumerate(zip(self._all, scores, strict=True)):
            policy, greatest = self._policies[number], float(own.max())
            if self._moved[number]:
                policy.reward(self._loss - loss - greatest)
            self._moved[number] = epoch >= self._warmup_epochs and greatest > 0
            if self._moved[number]:
                _move(prompts, own, policy)
        self._loss = loss

    def _look(self, epoch: int) -> tuple[float, list[Tensor]]:
        """The loss, and the scores of all prompts, float64 on the host."""
        sums, loss, batches = [torch.zeros(len(own.tokens), dtype=torch.float64) for own in self._all], 0.0, 0
        moving = {id(own.tokens) for own in self._all}
        others = [tensor for tensor in self._survey.tensors if id(tensor) not in moving]
        for mean, size in self._survey(epoch):
            slopes = [_slopes_of_gates(own.tokens) for own in self._all]
            beside = [tensor.grad for tensor in others if tensor.grad is not None]
            norm = float(torch.nn.utils.get_total_norm([*beside, *slopes]))
            loss += mean / size
            if not math.isfinite(norm):
                continue
            clipped = 1.0 if self._survey.clip_norm is None else min(1.0, self._survey.clip_norm / (norm + 1e-6))
            for total, slope in zip(sums, slopes, strict=True):
                total += slope.double().cpu() * clipped
            batches += 1
        return loss, [total / max(batches, 1) for total in sums]


def _slopes_of_gates(prompts: Tensor) -> Tensor:
    """Gradients [number] of a gate on each of the prompts [number, width]."""
    assert prompts.grad is not None
    return (prompts.grad * prompts).detach().sum(dim=1)


def _move(prompts: Prompts, scores: Tensor, policy: Policy) -> None:
    """Move the prompt of the greatest of `scores` [number] to where the policy says.

    The policy sees, block by block, the sums of scores, standardised, the shares of the other prompts, and the block
    that is left as zeros and a one: [3 * blocks].
    """
    token = int(scores.argmax())
    left = int(prompts.place[token])
    sums = np.array([float(scores[members.cpu()].sum()) for members in prompts.members])
    leaving = np.eye(prompts.num_blocks)[left]
    others = np.array(prompts.counts) - leaving
    state = [(sums - sums.mean()) / (sums.std() + 1e-8), others / max(others.sum(), 1), leaving]
    block = policy.choose(np.concatenate(state))
    if block != left:
        prompts.move(token, block, KEPT)


@METHODS.add("pro_vpt")
@dataclass(frozen=True)
class ProVPT(Method):
    """VPT-deep whose prompts do not stay: ahead of each epoch the one that helps least may move to another block.

    A block may be left without prompts. Where they go a policy says that learns from the loss: proximal policy
    optimisation, or Thompson sampling (`policy`). Every epoch costs one more pass over the training images, with
    gradients: counted training FLOPs, which are those of steps, leave it out. What moved keeps a thousandth of its
    values and the optimiser's state. The number of parameters stays that of VPT-deep, L p D. The released runs take
    SGD, batches of 64, and rates and decay from a grid for each task; the released example has 20 tokens and a rate
    that stays.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2503.06901"
    identity_at_init: ClassVar[bool] = False
    steps_alike: ClassVar[bool] = False
    rearranges: ClassVar[bool] = True
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)
    policy: str = option("ppo", choices=POLICIES)
    warmup_epochs: int = option(1, ge=0)

    def attach(self, backbone: Backbone) -> None:
        shape, blocks = backbone.shape, token_sequence(self.name, backbone)
        prompts = share(backbone, "prompts", Prompts(len(blocks), self.num_tokens, shape.width, shape.patch_size))
        own: dict[str, Any] = {"prompts": prompts, "num_prefix": shape.num_prefix_tokens, "dropout": self.dropout}
        for number, site in enumerate(blocks):
            site.wrap(partial(EnterPrompts, number=number, **own))

    def before_epochs(self, backbone: Backbone, survey: Survey, seed: int) -> Callable[[int], None]:
        return Relocation(backbone.all_of(Prompts), survey, self.warmup_epochs, self.policy, seed)

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * self.num_tokens * shape.width
