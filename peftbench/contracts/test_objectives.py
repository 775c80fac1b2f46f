"""The contract every registered objective keeps with methods of each kind."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from peftbench.adapters.file import MADE_AGAIN, adapter_bytes, adapter_tensors, load_adapter
from peftbench.backbones.base import Backbone
from peftbench.cells.evidence import random_evidence
from peftbench.config.gate import config_dir
from peftbench.contracts.backbones import images, make
from peftbench.contracts.test_methods import FITTING
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS
from peftbench.methods.base import install as install_method
from peftbench.objectives import base
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.classification import classification_loss
from peftbench.tasks.model import Classifier

CLASSES = 5
METHODS_OF_EACH_KIND = ("linear", "lora", "vpt_deep", "bitfit", "ssf")
OF_IMAGES = [name for name in OBJECTIVES.names() if not OBJECTIVES.get(name).of_pairs]
# an objective of one method goes with no other
WITH_METHODS = [
    (name, method)
    for name in OF_IMAGES
    for method in ([OBJECTIVES.get(name).of_method] if OBJECTIVES.get(name).of_method else METHODS_OF_EACH_KIND)
]
on_objectives = pytest.mark.parametrize("objective", OF_IMAGES)
on_methods = pytest.mark.parametrize(("objective", "method"), WITH_METHODS)
PLAIN_VITS = ("vit_cls", "vit_avg", "vit_registers", "vit_qknorm", "vit_distilled", "vit_prenorm")


def build(
    method: str, objective: str, backbone: str = "vit_cls", seed: int = 0, **options: Any
) -> tuple[Classifier, list[Tensor]]:
    """The model as a cell has it, and the buffers that an adapter file leaves out."""
    network, spec = make(backbone), OBJECTIVES.get(objective)(**options)
    own = base.prepare(spec, network, CLASSES, seed)
    frozen = [*network.buffers(), *own.buffers()]
    chosen = METHODS.get(method)(**FITTING.get(method, {}))
    with seeded(0, "observe"):
        found = chosen.observe(random_evidence(network, num_classes=CLASSES)) if chosen.looks_first else None
    install_method(chosen, network, seed, found)
    model = Classifier(network, CLASSES, seed)
    base.install(spec, model, own, CLASSES)
    return model, frozen


def its_method(objective: str, otherwise: str = "lora") -> str:
    return OBJECTIVES.get(objective).of_method or otherwise


def batch() -> dict[str, Tensor]:
    return {"image": images(4), "label": torch.tensor([0, 3, 1, 4])}


@torch.no_grad()
def nudge(model: Classifier) -> Classifier:
    generator = torch.Generator().manual_seed(11)
    for tensor in model.parameters():
        if tensor.requires_grad:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def loss_of(model: Classifier, objective: str, **options: Any) -> Tensor:
    loss_fn = OBJECTIVES.get(objective)(**options).loss_fn(model, classification_loss())
    torch.manual_seed(0)
    return loss_fn(model, batch())


@on_methods
def test_gradient_reaches_every_trainable_tensor_and_no_other(method: str, objective: str) -> None:
    model = nudge(build(method, objective)[0]).train()
    loss_of(model, objective).backward()
    inert = METHODS.get(method)(**FITTING.get(method, {})).inert(model.backbone)
    for name, tensor in model.named_parameters():
        if not tensor.requires_grad:
            assert tensor.grad is None, f"{name} is frozen and got a gradient"
            continue
        assert tensor.grad is not None, f"{name} got no gradient"
        live = tensor.grad.clone()
        short = name.removeprefix("backbone.")
        if short in inert:
            live[inert[short]] = 0
        # what an objective alone may reach
        as_a_whole = short in inert and tensor.grad[inert[short]].numel() == tensor.numel()
        assert as_a_whole or live.abs().max() > 0, f"the gradient of {name} is zero"


@on_methods
def test_what_trains_is_the_methods_the_objectives_and_the_heads(method: str, objective: str) -> None:
    alone = {name for name, _ in build(method, "none")[0].added}
    model = build(method, objective)[0]
    own = {name: tensor for name, tensor in model.added if name not in alone}
    expected = OBJECTIVES.get(objective)().expected_params(model.backbone.shape, CLASSES)
    assert alone <= {name for name, _ in model.added}
    assert sum(tensor.numel() for tensor in own.values()) == expected
    trainable = {id(tensor) for tensor in model.parameters() if tensor.requires_grad}
    assert {id(tensor) for tensor in [*(t for _, t in model.added), *model.head.parameters()]} == trainable


@on_methods
def test_the_objective_does_not_change_what_the_method_draws(method: str, objective: str) -> None:
    alone = dict(build(method, "none", seed=3)[0].named_parameters())
    together = dict(build(method, objective, seed=3)[0].named_parameters())
    assert all(torch.equal(tensor, together[name]) for name, tensor in alone.items() if name in together)
    again = dict(build(method, objective, seed=3)[0].named_parameters())
    assert all(torch.equal(tensor, again[name]) for name, tensor in together.items())


@on_methods
def test_the_adapter_file_restores_model_and_loss(method: str, objective: str, tmp_path: Any) -> None:
    model, frozen = build(method, objective)
    nudge(model)
    tensors = adapter_tensors(model, frozen)
    trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained == tensors.keys() - dict(model.named_buffers()).keys() - {MADE_AGAIN}
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(tensors, {}, "0" * 16))
    other, _ = build(method, objective, seed=1)
    load_adapter(other, tensors, path)
    assert torch.equal(other.eval()(images()), model.eval()(images()))
    assert torch.equal(loss_of(other.train(), objective), loss_of(model.train(), objective))


@on_objectives
def test_copies_gradient_checkpointing_and_bf16(objective: str) -> None:
    model = nudge(build(its_method(objective), objective)[0])
    expected = model.eval()(images())
    assert expected.shape == (4, CLASSES)
    # the bytes are our own, written a moment ago
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.eval()(images()), expected)
        assert torch.equal(loss_of(other.train(), objective), loss_of(model.train(), objective))
    model.zero_grad()
    loss_of(model, objective).backward()
    plain = {name: tensor.grad for name, tensor in model.added}
    model.zero_grad()
    model.backbone.net.set_grad_checkpointing(True)  # type: ignore[operator]
    loss_of(model, objective).backward()
    for name, tensor in model.added:
        torch.testing.assert_close(tensor.grad, plain[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss_of(model, objective).isfinite()


@on_objectives
@pytest.mark.parametrize("backbone", [*PLAIN_VITS, "vit_layerscale", "swin", "convnext"])
def test_every_backbone_trains_or_says_why_not(objective: str, backbone: str) -> None:
    try:
        model = build(its_method(objective, "bitfit" if backbone == "convnext" else "lora"), objective, backbone)[0]
    except NotApplicable as error:
        expected = backbone in ("swin", "convnext") or OBJECTIVES.get(objective).of_method
        assert expected and len(str(error).split()) >= 4
        return
    loss_of(nudge(model).train(), objective).backward()
    assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for _, tensor in model.added)


@on_objectives
def test_merging_the_method_leaves_the_prediction(objective: str) -> None:
    method = METHODS.get(its_method(objective))()
    if not method.mergeable:
        pytest.skip(f"{method.name} stays beside the network")
    model = nudge(build(its_method(objective), objective)[0]).eval()
    before = model(images())
    method.merge(model.backbone)
    torch.testing.assert_close(model(images()), before, rtol=1e-5, atol=1e-5)


@on_objectives
def test_every_objective_states_its_facts_and_has_a_config(objective: str) -> None:
    cls = OBJECTIVES.get(objective)
    assert cls.__doc__ and cls.version >= 1 and (cls.paper or cls.plain)
    assert cls.faithfulness in ("as the paper", "adapted", "details not published")
    assert (cls.faithfulness == "adapted") == bool(cls.adapted)
    assert cls().label == objective
    config = yaml.safe_load((config_dir() / "objective" / f"{objective}.yaml").read_text())
    assert config == {"defaults": [f"/schema/objective/{objective}@objective"]}


@pytest.mark.parametrize("objective", [name for name in OF_IMAGES if OBJECTIVES.get(name).of_method])
def test_an_objective_of_one_method_refuses_others_and_names_it(objective: str) -> None:
    with pytest.raises(NotApplicable, match=rf"{objective} .*method={its_method(objective)}"):
        build("lora", objective)


@pytest.mark.parametrize("method", ["convpass", "attnscale", "mona", "partial_k", "full", "vpt_shallow"])
def test_methods_that_count_tokens_see_the_gist_token_as_a_prefix_token(method: str) -> None:
    model = nudge(build(method, "gist")[0]).train()
    loss_of(model, "gist").backward()
    assert model.backbone.shape.num_prefix_tokens == 2
    assert model.eval()(images()).shape == (4, CLASSES)


@pytest.mark.parametrize("method", ["dtl", "vqt", "synqt", "lst", "last", "hst", "e3va"])
def test_gist_refuses_methods_that_make_their_features_another_way(method: str) -> None:
    with pytest.raises(NotApplicable, match=r"gist (reads its token|trains a token)"):
        build(method, "gist")


def test_the_average_leaves_the_gist_token_out() -> None:
    """An averaging backbone with a gist token no other token listens to pools what it pools without one."""
    from peftbench.objectives.gist import GistReadout

    backbone: Backbone = make("vit_avg")
    tokens = torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(1))
    net: Any = backbone.net
    readout = GistReadout(net, num_prefix=0).eval()
    torch.testing.assert_close(readout(tokens), net.fc_norm(tokens[:, 1:].mean(dim=1)))
