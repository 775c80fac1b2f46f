"""Policies of PRO-VPT (arXiv:2503.06901): to which block a prompt moves, learnt from what moves brought."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from peftbench.foundation.seeding import derive, seeded, stream

POLICIES = ("ppo", "thompson")

# of proximal policy optimisation, all as released
HIDDEN = 64
ACTOR_LR, CRITIC_LR = 3e-4, 1e-3
REWARDS_EACH, UPDATES = 2, 60
DISCOUNT, CLIP, ENTROPY = 1.0, 0.2, 0.01


class Policy(Protocol):
    """What says where a prompt goes, and learns how good that was."""

    def choose(self, state: NDArray[np.float64]) -> int:
        """A block, given the state [3 * blocks]."""

    def reward(self, value: float) -> None:
        """What the last choice brought."""


def policy_of(name: str, num_blocks: int, seed: int, number: int) -> Policy:
    """One of `POLICIES`, with chance of its own; `number` tells several of a cell apart."""
    return (PPO if name == "ppo" else Thompson)(num_blocks, derive(seed, "relocation", number))


class PPO:
    """Proximal policy optimisation (arXiv:1707.06347) of an actor and a critic with two hidden layers each.

    After every second reward 60 steps of Adam on both choices: returns are not discounted, standardised over the two
    and compared with the critic's values; the loss is clipped at 0.2, with half of the critic's squared error and
    less 0.01 of the entropy. In float32 on the host: it is small, and so the same on every device.
    """

    def __init__(self, num_blocks: int, seed: int) -> None:
        with seeded(seed, "networks"):
            self.actor = nn.Sequential(*_hidden(3 * num_blocks), nn.Linear(HIDDEN, num_blocks), nn.Softmax(dim=-1))
            self.critic = nn.Sequential(*_hidden(3 * num_blocks), nn.Linear(HIDDEN, 1))
        rates = [(self.actor, ACTOR_LR), (self.critic, CRITIC_LR)]
        self._optimizer = torch.optim.Adam([{"params": net.parameters(), "lr": lr} for net, lr in rates])
        self._chance = stream(seed, "choices")
        self._states: list[Tensor] = []
        self._choices: list[Tensor] = []
        self._rewards: list[float] = []

    @torch.no_grad()
    def choose(self, state: NDArray[np.float64]) -> int:
        seen = torch.tensor(state, dtype=torch.float32)
        choice = torch.multinomial(Categorical(self.actor(seen)).probs, 1, True, generator=self._chance)[0]
        self._states.append(seen)
        self._choices.append(choice)
        return int(choice)

    def reward(self, value: float) -> None:
        self._rewards.append(value)
        if len(self._rewards) == REWARDS_EACH:
            self._update()
            for kept in (self._states, self._choices, self._rewards):
                kept.clear()

    def _update(self) -> None:
        returns: list[float] = []
        total = 0.0
        for value in reversed(self._rewards):
            total = value + DISCOUNT * total
            returns.insert(0, total)
        wanted = torch.tensor(returns, dtype=torch.float32)
        wanted = (wanted - wanted.mean()) / (wanted.std() + 1e-8)
        states, choices = torch.stack(self._states), torch.stack(self._choices)
        with torch.no_grad():
            before = Categorical(self.actor(states)).log_prob(choices)
            advantages = wanted - self.critic(states)[:, 0]
        for _ in range(UPDATES):
            chances, values = Categorical(self.actor(states)), self.critic(states)[:, 0]
            ratios = (chances.log_prob(choices) - before).exp()
            gained = torch.min(ratios * advantages, ratios.clamp(1 - CLIP, 1 + CLIP) * advantages)
            loss = (-gained + 0.5 * (values - wanted).square().mean() - ENTROPY * chances.entropy()).mean()
            if not loss.isfinite():
                return
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()


class Thompson:
    """Thompson sampling: the block of the greatest draw from Beta(1 + successes, 1 + failures); no state is read."""

    def __init__(self, num_blocks: int, seed: int) -> None:
        self._successes, self._failures = np.ones(num_blocks), np.ones(num_blocks)
        self._chance = np.random.default_rng(seed)
        self._last = 0

    def choose(self, state: NDArray[np.float64]) -> int:
        self._last = int(self._chance.beta(self._successes, self._failures).argmax())
        return self._last

    def reward(self, value: float) -> None:
        (self._successes if value >= 0 else self._failures)[self._last] += 1


def _hidden(inputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh()]
