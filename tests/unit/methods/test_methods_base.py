"""Installing: a method that does not do what it declares is stopped, whatever it claims."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.spec import default_of, option
from peftbench.interventions import Bottleneck, ScaleShift
from peftbench.methods.base import METHODS, Method, MethodContractError, has_interventions, install
from peftbench.objectives import base as objectives
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.model import TaskModel


@dataclass(frozen=True)
class Norms(Method):
    """Correct: trains the final norm."""

    name: ClassVar[str] = "norms"
    mergeable: ClassVar[bool] = True
    factor: int = option(1, ge=1)

    def attach(self, backbone: Backbone) -> None:
        unfreeze(backbone.sites("norm.final")[0].module)

    def expected_params(self, shape: BackboneShape) -> int | None:
        return 2 * shape.width


class Miscounted(Norms):
    def expected_params(self, shape: BackboneShape) -> int:
        return 7


class Uncounted(Norms):
    def expected_params(self, shape: BackboneShape) -> None:
        return None


class Replacing(Norms):
    def attach(self, backbone: Backbone) -> None:
        backbone.sites("mlp", layers=[0])[0].wrap(copy.deepcopy)


class Unfoldable(Norms):
    def attach(self, backbone: Backbone) -> None:
        backbone.sites("mlp", layers=[0])[0].wrap(lambda base: ScaleShift(base, 48))


def test_a_wrong_count_is_an_error_with_both_numbers() -> None:
    with pytest.raises(MethodContractError, match="norms trains 96 parameters; its formula gives 7"):
        install(Miscounted(), make("vit_cls"))


def test_a_method_without_formula_is_installed() -> None:
    backbone = make("vit_cls")
    install(Uncounted(), backbone)
    assert sum(parameter.numel() for _, parameter in backbone.trainable) == 96


def test_a_replaced_tensor_is_an_error_naming_it() -> None:
    with pytest.raises(MethodContractError, match=r"replaced 4 tensors .* net\.blocks\.0\.mlp\.fc1\.weight"):
        install(Replacing(), make("vit_cls"))


def test_a_wrapper_that_cannot_be_folded_is_an_error_at_merging() -> None:
    backbone = make("vit_cls")
    method = Unfoldable()
    install(method, backbone)
    with pytest.raises(NotApplicable, match="norms does not fold into Mlp"):
        method.merge(backbone)


def test_installing_freezes_what_trained_before() -> None:
    backbone = make("vit_cls")
    backbone.requires_grad_(True)
    install(Norms(), backbone)
    assert {name for name, _ in backbone.trainable} == {"net.norm.weight", "net.norm.bias"}


@pytest.mark.parametrize("name", ["lora", "ssf", "repadapter", "snell", "bi_lora", "delora"])
def test_a_network_on_another_device_can_be_folded_as_soon_as_a_method_is_there(name: str) -> None:
    # tensors without numbers mix with those of the host no more than a GPU's do
    backbone, method = make("vit_cls").to("meta"), METHODS.get(name)()
    install(method, backbone)
    assert {tensor.device.type for tensor in (*backbone.parameters(), *backbone.buffers())} == {"meta"}
    method.merge(copy.deepcopy(backbone))


def test_an_objective_and_a_method_join_a_network_on_another_device() -> None:
    backbone, objective = make("vit_cls").to("meta"), OBJECTIVES.get("gist")()
    own = objectives.prepare(objective, backbone, 3, 0)
    assert backbone(torch.zeros(1, *backbone.sample_shape, device="meta")).device.type == "meta"
    install(METHODS.get("adaptformer")(), backbone)
    objective.install(TaskModel(backbone, nn.Linear(backbone.feature_dim, 3)), own)
    assert [name for name, _ in backbone.trainable if "token" in name]


def test_a_label_shows_what_differs_from_the_defaults() -> None:
    lora = METHODS.get("lora")
    assert lora().label == "lora"
    assert lora(rank=16).label == "lora (rank=16)"
    assert lora(targets=["q"], rank=4).label == "lora (rank=4, targets=['q'])"


def test_wrappers_are_seen_wherever_they_hang() -> None:
    assert not has_interventions(nn.Sequential(nn.Linear(2, 2), Bottleneck(2, 1)))
    assert has_interventions(nn.Sequential(nn.Sequential(ScaleShift(nn.Linear(2, 2), 2))))


@torch.no_grad()
def test_merging_twice_changes_nothing_more() -> None:
    backbone, method = make("vit_cls"), METHODS.get("ssf")()
    install(method, backbone)
    method.merge(backbone)
    once = backbone.eval()(images())
    method.merge(backbone)
    assert torch.equal(backbone(images()), once)


@pytest.mark.parametrize("name", METHODS.names())
def test_lists_that_are_chosen_from_are_one_cell_in_any_order(name: str) -> None:
    """And the defaults are in that order already, so that fingerprints are what they were."""
    method = METHODS.get(name)()
    for field in dataclasses.fields(method):
        value, default = getattr(method, field.name), default_of(field)
        if field.metadata.get("choices") is not None and isinstance(value, list):
            assert value == default
            turned = METHODS.get(name)(**{field.name: value[::-1]})
            assert turned.identity() == method.identity() and turned.label == name


def test_a_target_that_is_named_twice_or_wrongly_is_still_said() -> None:
    with pytest.raises(ConfigError, match=r"name each target once .*\['q', 'v', 'v'\]"):
        METHODS.get("lora")(targets=["v", "q", "v"])
    with pytest.raises(ConfigError, match="cannot be 'x'"):
        METHODS.get("lora")(targets=["x", "q"])
