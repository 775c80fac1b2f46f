"""PRO-VPT: a whole training with gates, lists of prompts and moves written out in float64, and what its policies do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.adapters.file import adapter_tensors, load_adapter
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import BadInput
from peftbench.interventions.relocated import Prompts
from peftbench.methods.base import METHODS, install
from peftbench.methods.pro_vpt import Relocation
from peftbench.methods.relocation import PPO, Thompson, policy_of
from peftbench.tasks.model import Classifier
from peftbench.train.batches import Batch, Batches, training_batches
from peftbench.train.loop import fit
from peftbench.train.optim import param_groups
from peftbench.train.options import OptimSpec, TrainSpec

CLASSES, TOKENS, EPOCHS, SEED = 3, 2, 12, 4
TRAIN = TrainSpec(epochs=EPOCHS, batch_size=8)
# a rate at which rounding does not grow over the training: at 0.5 the last bits of one step are 1e-10 of the last
OPTIM = {"name": "sgd", "lr": 0.03, "warmup_epochs": 0.0, "min_lr": 0.03, "weight_decay": 0.01, "decay_vectors": True}


def batches() -> Batches:
    chance = np.random.default_rng(1)
    pixels = chance.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    return training_batches({"image": pixels}, {"label": np.arange(20) % 3}, TRAIN, num_classes=3, seed=1, device="cpu")


def loss_fn(model: Any, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["image"].double()), batch["label"])


def classifier(**options: Any) -> tuple[Any, Classifier]:
    method, backbone = METHODS.get("pro_vpt")(num_tokens=TOKENS, dropout=0.0, **options), make("vit_cls")
    install(method, backbone, 5)
    return method, Classifier(backbone, CLASSES, seed=0).double()


class WrittenOut:
    """The released training: a leaf for every prompt and every gate, in lists by block."""

    def __init__(self, model: Classifier, clip_norm: float | None, policy: str, warmup_epochs: int) -> None:
        self.net: Any = make("vit_cls").net.double()
        tokens = model.backbone.all_of(Prompts)[0].tokens.detach()
        self.prompts = [[t.clone().requires_grad_() for t in own] for own in tokens.view(-1, TOKENS, tokens.shape[1])]
        self.gates = [[torch.ones((), dtype=torch.float64) for _ in own] for own in self.prompts]
        self.head = [tensor.detach().clone().requires_grad_() for tensor in model.head.parameters()]
        self.clip_norm, self.warmup_epochs = clip_norm, warmup_epochs
        self.policy = policy_of(policy, len(self.prompts), SEED, 0)
        self.moves: list[tuple[int, int]] = []

    def loss(self, batch: Batch) -> Tensor:
        x = self.net._pos_embed(self.net.patch_embed(batch["image"].double()))
        for block, prompts, gates in zip(self.net.blocks, self.prompts, self.gates, strict=True):
            number = len(prompts)
            if prompts:
                gated = torch.stack([gate * prompt for gate, prompt in zip(gates, prompts, strict=True)])
                x = torch.cat([x[:, :1], gated.expand(len(x), -1, -1), x[:, 1:]], dim=1)
            x = block(x)
            x = torch.cat([x[:, :1], x[:, 1 + number :]], dim=1)
        weight, bias = self.head
        return F.cross_entropy(self.net.norm(x)[:, 0] @ weight.T + bias, batch["label"])

    def ask_gates(self, asked: bool) -> None:
        for own, of_gates in zip(self.prompts, self.gates, strict=True):
            for prompt, gate in zip(own, of_gates, strict=True):
                prompt.requires_grad_(not asked)
                gate.requires_grad_(asked)
                prompt.grad = gate.grad = None

    def survey(self, data: Batches, epoch: int) -> tuple[list[np.ndarray], float]:
        self.ask_gates(True)
        scores, loss = [np.zeros(len(own)) for own in self.gates], 0.0
        for batch in data.epoch(EPOCHS + epoch):
            leaves = [*self.head, *(gate for own in self.gates for gate in own)]
            for leaf in leaves:
                leaf.grad = None
            mean = self.loss(batch)
            mean.backward()
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(leaves, self.clip_norm)
            loss += mean.item() / len(batch["label"])
            for block, own in enumerate(self.gates):
                scores[block] += np.array([gate.grad.item() for gate in own])  # type: ignore[union-attr]
        self.ask_gates(False)
        for leaf in self.head:
            leaf.grad = None
        return [own / len(data) for own in scores], loss

    def relocate(self, scores: list[np.ndarray]) -> None:
        greatest = [own.max() if len(own) else -1e4 for own in scores]
        left = int(np.argmax(greatest))
        counts = np.array([len(own) for own in self.prompts], dtype=float) - np.eye(len(scores))[left]
        sums = np.array([own.sum() for own in scores])
        seen = [(sums - np.mean(sums)) / (np.std(sums) + 1e-8), counts / sum(counts), np.eye(len(scores))[left]]
        block = self.policy.choose(np.concatenate(seen))
        self.moves.append((left, block))
        if block != left:
            place = int(np.argmax(scores[left]))
            prompt, gate = self.prompts[left].pop(place), self.gates[left].pop(place)
            with torch.no_grad():
                prompt *= 1e-3
            self.prompts[block].append(prompt)
            self.gates[block].append(gate)

    def train(self, data: Batches) -> list[float]:
        leaves = [*self.head, *(prompt for own in self.prompts for prompt in own)]
        optimizer = torch.optim.SGD(leaves, OPTIM["lr"], momentum=0.9, weight_decay=OPTIM["weight_decay"])
        flag, before, curve = False, 0.0, []
        for epoch in range(EPOCHS):
            scores, loss = self.survey(data, epoch)
            greatest = max(own.max() for own in scores if len(own))
            if flag:
                self.policy.reward(before - loss - greatest)
            before, flag = loss, epoch > self.warmup_epochs - 1 and greatest > 0
            if flag:
                self.relocate(scores)
            seen = []
            for batch in data.epoch(epoch):
                optimizer.zero_grad()
                mean = self.loss(batch)
                mean.backward()
                if self.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(leaves, self.clip_norm)
                optimizer.step()
                seen.append(mean.item() * len(batch["label"]))
            curve.append(sum(seen) / 20)
        return curve


@pytest.mark.parametrize(("clip_norm", "policy", "warmup_epochs"), [(0.25, "ppo", 1), (None, "thompson", 3)])
def test_a_training_is_that_of_gates_and_lists_of_prompts(
    clip_norm: float | None, policy: str, warmup_epochs: int
) -> None:
    method, model = classifier(policy=policy, warmup_epochs=warmup_epochs)
    expected = WrittenOut(model, clip_norm, policy, warmup_epochs)
    curve = expected.train(batches())
    optim = OptimSpec(**OPTIM, clip_norm=clip_norm)
    groups = param_groups(model.added, model.head.named_parameters(prefix="head"), optim)
    result = fit(
        *(model, loss_fn, batches(), None, optim, TRAIN, groups, SEED),
        before_epochs=lambda survey: method.before_epochs(model.backbone, survey, SEED),
    )
    # prompts came and went, and not only once to one block
    assert len(expected.moves) > 3 and len({block for left, block in expected.moves if block != left}) > 1
    prompts = model.backbone.all_of(Prompts)[0]
    assert prompts.counts == [len(own) for own in expected.prompts]
    for block, own in enumerate(expected.prompts):
        mine = sorted(prompts(block).detach().tolist())
        torch.testing.assert_close(
            torch.tensor(mine), torch.tensor(sorted(prompt.tolist() for prompt in own)), rtol=0, atol=1e-12
        )
    for mine_of_head, leaf in zip(model.head.parameters(), expected.head, strict=True):
        torch.testing.assert_close(mine_of_head, leaf, rtol=0, atol=1e-12)
    assert [row["loss"] for row in result.curve] == pytest.approx(curve, rel=1e-6)


def test_the_policy_is_proximal_policy_optimisation_on_two_rewards() -> None:
    policy, states = PPO(4, 3), np.random.default_rng(0).normal(size=(2, 12))
    actor, critic = ([tensor.detach().clone() for tensor in net.parameters()] for net in (policy.actor, policy.critic))
    leaves = [tensor.requires_grad_() for tensor in [*actor, *critic]]
    optimizer = torch.optim.Adam([{"params": actor, "lr": 3e-4}, {"params": critic, "lr": 1e-3}])

    def run(own: list[Tensor], x: Tensor) -> Tensor:
        for weight, bias in zip(own[0:4:2], own[1:4:2], strict=True):
            x = (x @ weight.T + bias).tanh()
        return x @ own[4].T + own[5]

    chosen = []
    for state, reward in zip(states, (0.5, -0.2), strict=True):
        chosen.append(policy.choose(state))
        policy.reward(reward)
    x, places = torch.tensor(states, dtype=torch.float32), torch.arange(2)
    # 0.5 - 0.2 and -0.2, standardised
    wanted = torch.tensor([1.0, -1.0]) / 2**0.5
    with torch.no_grad():
        before = run(actor, x).log_softmax(dim=1)[places, chosen]
        advantage = wanted - run(critic, x)[:, 0]
    for _ in range(60):
        logs, values = run(actor, x).log_softmax(dim=1), run(critic, x)[:, 0]
        ratio = (logs[places, chosen] - before).exp()
        least = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        entropy = -(logs.exp() * logs).sum(dim=1)
        loss = -least.mean() + 0.5 * F.mse_loss(values, wanted) - 0.01 * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = [*policy.actor.parameters(), *policy.critic.parameters()]
    for mine, leaf in zip(found, leaves, strict=True):
        torch.testing.assert_close(mine, leaf, rtol=0, atol=1e-4)
    assert policy.choose(states[0]) in range(4)


def test_thompson_sampling_prefers_what_brought_rewards() -> None:
    policy = Thompson(3, 0)
    for _ in range(200):
        policy.reward(1.0 if policy.choose(np.zeros(9)) == 2 else -1.0)
    assert [policy.choose(np.zeros(9)) for _ in range(20)] == [2] * 20


def test_prompts_that_moved_are_saved_and_restored_where_they_are() -> None:
    (_, model), (_, other) = classifier(), classifier()
    prompts = model.backbone.all_of(Prompts)[0]
    frozen = list(make("vit_cls").buffers())
    for token in (0, 1, 5):
        prompts.move(token, 1, 0.5)
    assert prompts.counts == [0, 5, 1]
    tensors = adapter_tensors(model, frozen)
    x = images(2).double()
    assert not torch.equal(model.eval()(x), other.eval()(x))
    load_adapter(other, tensors, Path("adapter"))
    assert torch.equal(model(x), other(x)) and other.backbone.all_of(Prompts)[0].counts == [0, 5, 1]
    tensors["backbone.shared.prompts.place"][3] = 7
    with pytest.raises(BadInput, match="block 7"):
        load_adapter(other, tensors, Path("adapter"))


class Surveyed:
    """One batch of a given loss, and as many of overflowed gradients as asked for."""

    clip_norm = 1.0

    def __init__(self, model: Classifier, overflows: int) -> None:
        self._model, self._overflows = model, overflows
        self.tensors: list[Tensor] = [tensor for tensor in model.parameters() if tensor.requires_grad]

    def __call__(self, epoch: int) -> Iterator[tuple[float, int]]:
        for number in range(1 + self._overflows):
            self._model.zero_grad()
            loss = self._model(images(4).double()).square().sum()
            loss.backward()
            if number:
                self.tensors[0].grad.fill_(float("inf"))  # type: ignore[union-attr]
            yield loss.item(), 4


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_batches_that_overflow_have_no_say_in_scores(clip_norm: float | None) -> None:
    places = []
    for overflows in (0, 2):
        method, model = classifier(warmup_epochs=0)
        survey = Surveyed(model, overflows)
        survey.clip_norm = clip_norm  # type: ignore[assignment]
        ahead = method.before_epochs(model.backbone, survey, SEED)
        for epoch in range(4):
            ahead(epoch)
        places.append(model.backbone.all_of(Prompts)[0].counts)
    assert places[0] == places[1] != [TOKENS] * 3


def test_the_loss_that_rewards_is_that_of_all_batches() -> None:
    """Those whose gradients overflow among them: the loss of one batch, divided by its size, once for each."""
    _, model = classifier()
    looks = [Relocation(model.backbone.all_of(Prompts), Surveyed(model, n), 0, "ppo", SEED)._look(0) for n in (0, 2)]
    (one, scores), (three, same_scores) = looks
    assert three == pytest.approx(3 * one, rel=1e-12) and one > 0
    assert torch.equal(scores[0], same_scores[0])
