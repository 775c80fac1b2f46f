"""The contract every objective of pairs keeps with methods of pairs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from peftbench.contracts.backbones import PAIR, images, make
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS
from peftbench.methods.base import install as install_method
from peftbench.objectives import base
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.model import TaskModel
from peftbench.tasks.text_classification import TextClassification
from peftbench.train.options import TrainSpec

CLASSES = 5
on_objectives = pytest.mark.parametrize("name", [name for name in OBJECTIVES.names() if OBJECTIVES.get(name).of_pairs])
on_methods = pytest.mark.parametrize("method", ["coop", "ivlp"])
# of what only one method leaves
OF_METHOD = {"dpt": "dpt"}


def build(name: str, method: str) -> TaskModel:
    pair, spec, method = make(PAIR), OBJECTIVES.get(name)(), OF_METHOD.get(name, method)
    own = base.prepare(spec, pair, CLASSES, 0)
    install_method(METHODS.get(method)(), pair)
    model = TextClassification().model(pair, None, 0)
    base.install(spec, model, own, CLASSES)
    return model


def loss_of(model: TaskModel, name: str) -> Tensor:
    batch = {"image": images(4), "label": torch.tensor([0, 3, 1, 4])}
    return OBJECTIVES.get(name)().loss_fn(model, TextClassification().loss_fn(TrainSpec()))(model, batch)


@on_objectives
@on_methods
def test_gradient_reaches_every_trainable_tensor_and_no_other(name: str, method: str) -> None:
    model = build(name, method).train()
    loss_of(model, name).backward()
    for tensor_name, tensor in model.named_parameters():
        assert (tensor.grad is not None) == tensor.requires_grad, tensor_name
        assert tensor.grad is None or tensor.grad.abs().max() > 0, tensor_name


@on_objectives
def test_the_frozen_side_is_no_part_of_what_is_trained_or_kept_and_copies_work(name: str) -> None:
    model = build(name, "ivlp").train()
    assert all(tensor.startswith("backbone.") for tensor, _ in model.added)
    assert torch.equal(loss_of(copy.deepcopy(model), name), loss_of(model, name))


@on_objectives
def test_backbones_of_images_alone_are_refused(name: str) -> None:
    with pytest.raises(NotApplicable, match="pair"):
        base.prepare(OBJECTIVES.get(name)(), make("vit_cls"), CLASSES, 0)
