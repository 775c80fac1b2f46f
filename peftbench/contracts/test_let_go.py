"""A step keeps nothing of its graph, so that on CUDA the next one can be recorded.

torch adds gradients up on the stream of the step that first asked for them, for as long as anything of that step's
graph is there. A step outside of a recording has another stream, and one that is joined to it ends the recording.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench.contracts.backbones import suited
from peftbench.contracts.test_methods import fitting
from peftbench.contracts.test_steps import built, data_of, method_on, under
from peftbench.methods.base import METHODS, Method
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.objectives.none import NoObjective
from peftbench.train.batches import training_batches
from peftbench.train.options import TrainSpec


def accumulator(tensor: Tensor) -> Any:
    """The node that adds up the gradient of a tensor that trains: made with the first graph, gone with the last."""
    reader: Any = tensor.expand_as(tensor).grad_fn
    return reader.next_functions[0][0]


def kept(method: Method, place: str, objective: Objective) -> list[str]:
    """Names of the tensors whose node outlives a step."""
    model, task = built(method, place, None, objective)
    train = TrainSpec(batch_size=4)
    batches = training_batches(*data_of(model.backbone, task, 4), train, num_classes=3, seed=0, device="cpu")
    (batch,) = batches.epoch(0)
    loss_fn = objective.loss_fn(model, task.loss_fn(train, model.inputs))
    trained = {name: tensor for name, tensor in model.train().named_parameters() if tensor.requires_grad}
    loss = loss_fn(model, batch | {"epoch": torch.zeros_like(batch["index"])})
    for tensor in trained.values():
        accumulator(tensor).metadata["of this step"] = True
    loss.backward()
    # what only a search for circles would let go is kept as well
    gc.disable()
    try:
        del loss
        return [name for name, tensor in trained.items() if "of this step" in accumulator(tensor).metadata]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", METHODS.names())
def test_a_step_of_a_method_keeps_nothing_of_its_graph(name: str) -> None:
    place = suited(METHODS.get(name), "vit_cls")
    method = method_on(name, place)
    if method.trains_nothing and method.of_pairs:
        pytest.skip("nothing trains")
    assert kept(method, place, NoObjective()) == []


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_a_step_under_an_objective_keeps_nothing_of_its_graph(name: str) -> None:
    objective, method, place = under(name)
    assert kept(method, place, objective) == []


def test_a_graph_that_is_kept_is_noticed() -> None:
    class Keeping(NoObjective):
        def loss_fn(self, model: Any, base: Any) -> Any:
            def loss_fn(model: Any, batch: Any) -> Tensor:
                model.last = base(model, batch)
                return model.last * 1

            return loss_fn

    assert "head.weight" in kept(fitting("lora"), "vit_cls", Keeping())
