"""Prompts that move: what is traced goes by the places written last, whoever wrote them, and before any eager pass."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.adapters.file import adapter_tensors, load_adapter
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import BadInput
from peftbench.foundation.metric import ACCURACY
from peftbench.interventions.relocated import Prompts
from peftbench.methods.base import METHODS, install
from peftbench.tasks.model import Classifier
from peftbench.train.loop import Best

Trace = Callable[[nn.Module, Tensor], nn.Module]


def model(seed: int = 5) -> Classifier:
    backbone = make("vit_cls")
    install(METHODS.get("pro_vpt")(num_tokens=2, dropout=0.0), backbone, seed)
    return Classifier(backbone, 3, seed=0).eval()


def prompts(own: nn.Module) -> Prompts:
    return next(module for module in own.modules() if isinstance(module, Prompts))


def scatter(own: nn.Module) -> None:
    """Prompts 0, 1 and 5 of six enter the middle block; none is left in the first."""
    for token in (0, 1, 5):
        prompts(own).move(token, 1, 0.5)


def exported(own: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.export(own, (x,)).module()


def compiled(own: nn.Module, _: Tensor) -> nn.Module:
    result: Any = torch.compile(own, backend="eager")
    return result


def as_moved() -> Classifier:
    own = model()
    scatter(own)
    return own


def as_loaded() -> Classifier:
    """A state of prompts that moved, put into a model that has seen nothing."""
    own = model(seed=6)
    own.load_state_dict(as_moved().state_dict())
    return own


def as_file() -> Classifier:
    own = model(seed=6)
    load_adapter(own, adapter_tensors(as_moved(), list(make("vit_cls").buffers())), Path("adapter"))
    return own


def as_best() -> Classifier:
    """The best epoch's state put back over later moves."""
    own = as_moved()
    best = Best(own, ACCURACY)
    best.consider({"epoch": 1}, 0.5)
    prompts(own).move(3, 0, 1.0)
    best.restore()
    return own


def as_copy() -> Classifier:
    """A copy, whose prompts then move by themselves."""
    first = model()
    own = copy.deepcopy(first)
    scatter(own)
    assert prompts(first).counts == [2, 2, 2]
    return own


def as_pickle() -> Classifier:
    buffer = io.BytesIO()
    torch.save(as_moved(), buffer)
    own: Classifier = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    return own


@pytest.mark.parametrize("trace", [exported, compiled])
@pytest.mark.parametrize("made", [as_moved, as_loaded, as_file, as_best, as_copy, as_pickle])
def test_a_trace_ahead_of_any_eager_pass_is_that_of_the_places(made: Callable[[], Classifier], trace: Trace) -> None:
    own, x = made(), images(2)
    with torch.no_grad():
        found = trace(own, x)(x)
        assert prompts(own).counts == [0, 5, 1]
        expected = own(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert (expected - model()(x)).abs().max() > 1e-3


@pytest.mark.parametrize("trace", [exported, compiled])
def test_a_fresh_model_is_traced_ahead_of_any_eager_pass(trace: Trace) -> None:
    own, x = model(), images(2)
    with torch.no_grad():
        torch.testing.assert_close(trace(own, x)(x), own(x), rtol=0, atol=1e-6)


def test_what_is_compiled_follows_moves_and_loads() -> None:
    own, x = model(), images(2)
    fresh, run = copy.deepcopy(own.state_dict()), compiled(own, x)
    with torch.no_grad():
        places = []
        for write in (lambda: None, lambda: scatter(own), lambda: own.load_state_dict(fresh)):
            write()
            places.append(run(x))
            torch.testing.assert_close(places[-1], own(x), rtol=0, atol=1e-6)
    assert not torch.allclose(places[0], places[1]) and torch.equal(places[0], places[2])


def test_an_eager_pass_of_a_copy_leaves_the_first_model_alone() -> None:
    first = as_moved()
    own, x = copy.deepcopy(first), images(2)
    prompts(own).move(2, 0, 1.0)
    with torch.no_grad():
        assert not torch.equal(own(x), first(x))
        assert torch.equal(first(x), as_moved()(x))


def test_a_state_with_a_block_that_is_not_there_is_refused_where_it_is_loaded() -> None:
    own = model()
    state = own.state_dict()
    name = next(name for name in state if name.endswith("prompts.place"))
    with pytest.raises(BadInput, match="a prompt enters block 7; this network has 3"):
        own.load_state_dict(state | {name: torch.tensor([0, 0, 1, 1, 2, 7])})


def test_a_model_without_memory_yet_takes_its_places_from_a_state() -> None:
    with torch.device("meta"):
        own = Prompts(3, 2, 8, 8)
    own = own.to_empty(device="cpu")
    given = Prompts(3, 2, 8, 8)
    given.move(0, 2, 1.0)
    own.load_state_dict(given.state_dict())
    assert own.counts == [1, 2, 3] and torch.equal(own(2), given(2))
