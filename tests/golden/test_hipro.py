"""HiPro: the tree of tasks, what affinity is, and how the contexts of a path make one feature of a class."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from peftbench.backbones.pair import Pair, both_shapes
from peftbench.contracts.backbones import PAIR, make
from peftbench.interventions import LearnedContext, PathContext
from peftbench.methods.base import install
from peftbench.methods.hipro import HiPro, tree_of

NAMES = ("red circle", "blue ring", "red circle", "green star", "pink arrow", "red circle")
TASKS = (0, 0, 1, 1, 2, 2)


def several() -> Pair:
    pair = make(PAIR).double()
    assert isinstance(pair, Pair)
    pair.read_classes(NAMES, ["a photo of a {}."], TASKS)
    return pair


def seen(pair: Pair) -> SimpleNamespace:
    images = torch.rand(12, *pair.sample_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = {"image": images, "label": torch.arange(12) % len(NAMES)}
    return SimpleNamespace(backbone=pair, images=lambda size: iter([batch]))


def test_the_tasks_that_help_each_other_most_are_joined_first() -> None:
    # one direction of 0 and 3 is strong and the mean of both decides; the group {0, 1} is nearer to 2 than to 3
    affinity = torch.tensor([[9.0, 5, 1, 8], [5, 9, 3, 0], [1, 3, 9, 1.5], [-4, 0, 1.5, 9]])
    tree = [set(torch.nonzero(row).flatten().tolist()) for row in tree_of(affinity)]
    assert tree == [{0}, {1}, {2}, {3}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}]


def test_affinity_is_what_a_step_for_one_task_does_to_the_loss_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftbench.methods.hipro.LOOK_AHEAD", 0.5)
    pair = several()
    torch.manual_seed(3)
    found = HiPro(num_tokens=2).observe(seen(pair))  # type: ignore[arg-type]
    torch.manual_seed(3)
    shared = LearnedContext(pair.texts, pair, NAMES, 2)
    [batch] = seen(pair).images(1)
    features = pair.image_features(batch["image"]).detach()

    def loss(task: int) -> torch.Tensor:
        classes = [number for number, other in enumerate(TASKS) if other == task]
        rows = torch.tensor([int(label) in classes for label in batch["label"]])
        logits = pair.match(features[rows], shared(pair, features)[classes])
        return F.cross_entropy(logits, batch["label"][rows] - classes[0])

    start, before = shared.context.detach().clone(), [loss(task).item() for task in range(3)]
    for task in range(3):
        shared.context.data.copy_(start)
        [slope] = torch.autograd.grad(loss(task), shared.context)
        shared.context.data.copy_(start - 0.5 * slope)
        expected = [1 - loss(other).item() / before[other] for other in range(3)]
        assert found["affinity"][task].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert (found["affinity"].diagonal() > 0).all() and found["nodes"].shape == (5, 3)


def test_a_class_is_the_mean_over_the_nodes_above_it() -> None:
    pair = several()
    plain = pair.texts
    nodes = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]).bool()
    install(HiPro(num_tokens=2), pair, 0, {"nodes": nodes})
    tree = pair.texts
    assert isinstance(tree, PathContext) and tree.context.shape == (5, 2, pair.text.shape.width)
    # tasks 0 and 2 have a node together, where "red circle" is read once: 3 leaves of 2, 3 of 4, 4 of 6
    assert len(tree.ids) == 2 + 2 + 2 + 3 + 4
    each = []
    for context in tree.context:
        one = LearnedContext(plain, pair, NAMES, 2).double()
        one.context.data.copy_(context)
        each.append(F.normalize(one(pair, torch.empty(0)), dim=-1))
    above = {0: [0, 3, 4], 1: [1, 4], 2: [2, 3, 4]}
    expected = [sum(each[node][row] for node in above[task]) / len(above[task]) for row, task in enumerate(TASKS)]
    torch.testing.assert_close(tree(pair, torch.empty(0)), torch.stack(expected), rtol=0, atol=1e-12)  # type: ignore[arg-type]


def test_t_tasks_have_2_t_minus_1_contexts() -> None:
    image, text = both_shapes(make(PAIR).shape)
    for tasks, contexts in ((1, 1), (4, 7)):
        shape = replace(image, num_tasks=tasks, text=replace(text, width=512))
        assert HiPro().expected_params(shape) == contexts * 8192
