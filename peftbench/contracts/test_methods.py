"""The contract every registered method keeps on every backbone it applies to. A new method is tested by being there."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.backbones.pair import Pair
from peftbench.contracts import backbones
from peftbench.contracts.backbones import BUILDERS, OTHER_SHAPES, look, make, of_clips, of_tasks, samples, suited
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, Method, MethodContractError, has_interventions, install
from peftbench.train.blocks import recomputed
from peftbench.train.measure import flops

# Options for methods whose defaults name the sizes of a real network, or ask for more than a tiny matrix has, or take
# long to look at its images.
FITTING: dict[str, dict[str, Any]] = {
    "noah_subnet": {"prompts": [2, 1, 0], "lora_ranks": [0, 2, 3], "adapter_widths": [1, 0, 2]},
    "noah_supernet": {
        "sizes": [1, 2, 3],
        "supernet_epochs": 2,
        "supernet_lr": 0.02,
        "population": 6,
        "generations": 1,
        "budget": 0.02,
    },
    "spt_lora": {"budget": 0.1, "rank": 2, "num_batches": 2, "batch_size": 8},
    "spt_adapter": {"budget": 0.1, "rank": 2, "num_batches": 2, "batch_size": 8},
    "gps": {"batch_size": 16},
    "head2toe": {"steps": 20, "batch_size": 16, "target_size": 100},
    # fewer prompts than random images have classes
    "da_vpt": {"num_guided": 3},
    # fewer than a tiny pair has read
    "dpt": {"num_classes": 3},
    # windows of a tiny grid
    "self_prompt": {"num_tokens": 6, "batch_size": 16},
    "vipamin": {"num_tokens": 6, "num_matched": 4},
    "pae": {"num_tokens": 4, "stride": 8, "num_images": 16},
    # an adapter that is narrow beside a tiny network
    "sparse_tuning": {"bottleneck": 2, "keep": 0.2},
    # its random start is as large as the paper says for a width of 768
    "fourierft": {"num_coefficients": 60, "scale": 10.0},
    "waveft": {"num_coefficients": 60},
    # its scale is for factors that have moved by thousandths
    "randlora": {"alpha": 32.0},
    # sizes that cut a tiny width
    "c3a": {"block_size": 16},
    "consolidator": {"num_groups": 16},
    "miss": {"rank": 12},
    "road": {"group_size": 16},
    "ttc": {"align_share": 0.02},
    # in other sizes the last rectifier turns whole rows off, whatever the image
    "clip_adapter": {"reduction": 6},
    # of many rectifiers some are off for all of a few texts
    "uniadapter": {"bottleneck": 12},
    # finer cells than a tiny matrix has singular values would bend nothing
    "ditask": {"cells": 8},
}
# One backbone of each family for what does not depend on a backbone's details, such as copying and saving.
FAMILIES = ("vit_cls", "swin", "convnext")
on_every_family = pytest.mark.parametrize("backbone", FAMILIES)
on_every_backbone = pytest.mark.parametrize("backbone", BUILDERS)


@pytest.fixture(params=METHODS.names())
def pair(request: pytest.FixtureRequest, backbone: str) -> tuple[Method, str]:
    """A method with its default hyperparameters and a backbone it applies to, by name; of clips if it needs them."""
    backbone = suited(METHODS.get(request.param), backbone)
    if reason := default_refusal(request.param, backbone):
        pytest.skip(reason)
    return fitting(request.param), backbone


@pytest.fixture
def method(pair: tuple[Method, str]) -> Method:
    return pair[0]


@pytest.fixture
def bare(pair: tuple[Method, str]) -> Backbone:
    """The backbone without the method."""
    return make(pair[1])


@pytest.fixture
def installed(pair: tuple[Method, str]) -> Backbone:
    """The same with the method just installed."""
    return fresh(*pair)


@pytest.fixture
def nudged(installed: Backbone) -> Backbone:
    """The same with every trainable tensor moved off its start: zero factors hide each other's gradients."""
    return nudge(installed)


def fitting(name: str) -> Method:
    """The method with its default hyperparameters, as far as they fit a network of three blocks."""
    return METHODS.get(name)(**FITTING.get(name, {}))


def fresh(method: Method, backbone: str, seed: int = 0) -> Backbone:
    return backbones.installed(method, backbone, seed).eval()


@torch.no_grad()
def nudge(backbone: Backbone, seed: int = 11) -> Backbone:
    generator = torch.Generator().manual_seed(seed)
    for _, tensor in backbone.trainable:
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return backbone


def refusal(method: Method, backbone: Backbone) -> str:
    """Why the method refuses this backbone, or nothing."""
    try:
        install(method, backbone, findings=look(method, backbone))
    except NotApplicable as error:
        return str(error) or "refused without a reason"
    return ""


@cache
def default_refusal(method: str, backbone: str) -> str:
    return refusal(fitting(method), make(backbone))


def loss_of(backbone: Backbone, batch: Tensor | None = None) -> Tensor:
    """A scalar that depends on every feature of every image differently."""
    features = backbone(samples(backbone) if batch is None else batch)
    weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
    return (weights * features + 0.1 * features**2).sum()


def tensors_of(backbone: Backbone) -> dict[str, Tensor]:
    return dict([*backbone.named_parameters(), *backbone.named_buffers()])


@torch.no_grad()
def outputs(backbone: Backbone) -> Tensor:
    features: Tensor = backbone(samples(backbone))
    return features


@pytest.mark.parametrize("name", METHODS.names())
@on_every_backbone
def test_a_refusal_says_why_and_the_plain_vit_is_never_refused(name: str, backbone: str) -> None:
    reason = default_refusal(name, suited(METHODS.get(name), backbone))
    assert not reason or (backbone != "vit_cls" and len(reason.split()) >= 4 and "\n" not in reason)


@on_every_family
def test_attaching_leaves_every_original_tensor_in_place(
    pair: tuple[Method, str], method: Method, bare: Backbone
) -> None:
    objects = tensors_of(bare)
    bytes_before = {name: tensor.detach().clone() for name, tensor in objects.items()}
    look(method, bare)
    assert not bare.trainable and not has_interventions(bare), "looking changes nothing"
    found = backbones.findings(*pair)
    install(method, bare, findings=found)
    kept = {id(tensor) for tensor in tensors_of(bare).values()}
    for name, tensor in objects.items():
        assert id(tensor) in kept, f"{name} is another object"
        # a method may start a tensor that it trains from what it found, and from nothing else
        starts = [bytes_before[name], *((found or {}).values() if tensor.requires_grad else ())]
        assert any(torch.equal(tensor, start) for start in starts), f"{name} has other values"


@on_every_backbone
def test_output_at_the_start(method: Method, bare: Backbone, installed: Backbone) -> None:
    if method.pools_itself:
        pytest.skip("other features by its own pooling; the method's own tests compare the tokens")
    before, after = outputs(bare), outputs(installed)
    same = before.shape == after.shape and (before - after).abs().max() <= 1e-6 * before.abs().max()
    assert same == method.identity_at_init


@on_every_family
def test_trainable_is_what_is_new_and_what_was_unfrozen(
    pair: tuple[Method, str], method: Method, bare: Backbone
) -> None:
    original = {id(parameter) for parameter in bare.parameters()}
    found = backbones.findings(*pair)
    install(method, bare, findings=found)
    frozen_new = [n for n, p in bare.named_parameters() if id(p) not in original and not p.requires_grad]
    assert not frozen_new, "a new tensor that does not train belongs into a buffer"
    expected = method.expected_params(bare.shape) if found is None else method.expected_with(bare.shape, found)
    if expected is not None:
        assert sum(parameter.numel() for _, parameter in bare.trainable) == expected


@pytest.mark.parametrize("name", METHODS.names())
@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_the_formula_holds_for_other_widths_and_depths(name: str, shape: str) -> None:
    method, backbone = fitting(name), OTHER_SHAPES[shape]()
    if shape == backbones.PAIR and not method.of_pairs:
        pytest.skip("a tower of a pair is a network like the others")
    if method.mixes_time:
        backbone = of_clips(backbone)
    if method.by_task:
        backbone = of_tasks(backbone)
    if refusal(method, backbone):
        pytest.skip(f"{name} has no meaning on {shape}")
    expected = method.expected_params(backbone.shape)
    if expected is not None:
        assert sum(parameter.numel() for _, parameter in backbone.trainable) == expected


@on_every_backbone
def test_gradient_reaches_all_trainable_tensors_and_no_other(method: Method, nudged: Backbone) -> None:
    inert = method.inert(nudged)
    if nudged.trainable:
        loss_of(nudged).backward()
    check_gradients(nudged, inert)


def check_gradients(backbone: Backbone, inert: Mapping[str, slice | Tensor]) -> None:
    """Every trainable tensor has a gradient that is not zero, unless all of it is inert, and no other has one."""
    for name, parameter in backbone.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{name} is frozen and got a gradient"
            continue
        assert parameter.grad is not None, f"{name} got no gradient"
        as_a_whole = name in inert and parameter.grad[inert[name]].numel() == parameter.numel()
        assert as_a_whole or parameter.grad.abs().max() > 0, f"the gradient of {name} is zero"


@on_every_backbone
def test_entries_without_gradient_are_the_declared_ones(method: Method, installed: Backbone) -> None:
    """Double precision tells a gradient that cancels (1e-16 of the others) from a small one."""
    if not installed.trainable:
        pytest.skip("nothing trains in the backbone")
    inert, installed = method.inert(installed), installed.double()
    declared = {name: torch.zeros_like(parameter, dtype=torch.bool) for name, parameter in installed.trainable}
    assert set(inert) <= set(declared)
    for name, where in inert.items():
        declared[name][where] = True
        assert declared[name].any(), f"{name} is declared inert nowhere"
    start = {name: parameter.detach().clone() for name, parameter in installed.trainable}
    dead = {name: torch.ones_like(mask) for name, mask in declared.items()}
    # a rectifier may be off for one draw of tensors and images; an inert entry is dead for all
    for seed in range(64):
        installed.load_state_dict(start, strict=False)
        for name, now in dead_entries(nudge(installed, seed), seed).items():
            assert not (declared[name] & ~now).any(), f"{name} is not inert where declared"
            dead[name] &= now
        if all(torch.equal(dead[name], declared[name]) for name in dead):
            return
    forgotten = {name: int((mask & ~declared[name]).sum()) for name, mask in dead.items()}
    listed = ", ".join(f"{number} of {name}" for name, number in forgotten.items() if number)
    pytest.fail(f"without gradient and not declared inert: {listed}")


def test_a_forgotten_declaration_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    method = fitting("bitfit")
    monkeypatch.setattr(type(method), "inert", lambda self, backbone: {})
    with pytest.raises(pytest.fail.Exception, match=r"48 of net\.blocks\.0\.attn\.qkv\.bias, 48 of net\.blocks\.1"):
        test_entries_without_gradient_are_the_declared_ones(method, fresh(method, "vit_cls"))


def dead_entries(backbone: Backbone, seed: int) -> dict[str, Tensor]:
    """Tensor name -> where its gradient is zero up to rounding, at large images so that no tap of a kernel is idle."""
    backbone.zero_grad(set_to_none=True)
    size = 128 if backbone.shape.family == "convnext" else 32
    batch = samples(backbone, size=size, seed=seed).double()
    loss_of(backbone, batch).backward()
    found = {name: parameter.grad.abs() for name, parameter in backbone.trainable if parameter.grad is not None}
    largest = max(float(gradient.max()) for gradient in found.values())
    return {name: gradient <= 1e-12 * largest for name, gradient in found.items()}


@on_every_family
def test_steps_move_all_trainable_tensors_and_no_other(method: Method, installed: Backbone) -> None:
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(installed).items()}
    # running statistics of a method's own batch norms; no backbone here has any
    norms = [(n, m) for n, m in installed.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    statistics = {f"{name}.{key}" for name, norm in norms for key, _ in norm.named_buffers()}
    trainable = dict(installed.trainable)
    inert = method.inert(installed)
    still = {name for name, where in inert.items() if trainable[name][where].numel() == trainable[name].numel()}
    installed.train()
    torch.manual_seed(0)
    # without decay first: it would move a tensor that never gets a gradient
    for num_steps, weight_decay in ((3, 0.0), (1, 0.1)):
        take_steps(installed, num_steps, weight_decay)
        now = tensors_of(installed)
        moved = {name for name in before.keys() - statistics if not torch.equal(now[name], before[name])}
        assert moved <= trainable.keys() <= moved | still, f"wrong with weight decay {weight_decay}"


def take_steps(backbone: Backbone, num_steps: int, weight_decay: float) -> None:
    if not backbone.trainable:
        return
    optimizer = torch.optim.AdamW([p for _, p in backbone.trainable], lr=1e-2, weight_decay=weight_decay)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss_of(backbone).backward()
        optimizer.step()


@on_every_backbone
def test_merging_keeps_the_function_and_leaves_no_wrapper(method: Method, nudged: Backbone) -> None:
    if not method.mergeable:
        with pytest.raises(MethodContractError, match=method.name):
            method.merge(nudged)
        return
    before = outputs(nudged)
    method.merge(nudged)
    assert not has_interventions(nudged)
    assert (outputs(nudged) - before).abs().max() <= 1e-5 * before.abs().max()


@on_every_family
def test_trainable_tensors_alone_restore_the_model(
    method: Method, pair: tuple[Method, str], nudged: Backbone, tmp_path: Path
) -> None:
    found = {f"findings.{name}": tensor for name, tensor in (backbones.findings(*pair) or {}).items()}
    save_file({name: p.detach() for name, p in nudged.trainable} | found, tmp_path / "state.safetensors")
    state = load_file(tmp_path / "state.safetensors")
    other = make(pair[1])
    install(method, other, 1, {name.removeprefix("findings."): state.pop(name) for name in found} or None)
    other.eval()
    assert set(state) == {name for name, _ in other.trainable}
    assert other.load_state_dict(state, strict=False).unexpected_keys == []
    assert torch.equal(outputs(other), outputs(nudged))


@on_every_family
def test_train_and_eval_copies_and_bf16(nudged: Backbone) -> None:
    expected = outputs(nudged)
    assert torch.equal(outputs(copy.deepcopy(nudged)), expected)
    # the bytes are our own, written a moment ago
    assert torch.equal(outputs(pickle.loads(pickle.dumps(nudged))), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = outputs(nudged)
    assert reduced.shape == expected.shape and reduced.isfinite().all()
    assert (reduced.float() - expected).abs().mean() < 0.1 * expected.abs().mean()
    assert outputs(nudged.train()).shape == expected.shape


@on_every_family
def test_work_can_be_counted_and_is_no_less_than_the_backbones(
    method: Method, bare: Backbone, installed: Backbone
) -> None:
    batch = samples(bare, 2)
    if isinstance(bare, Pair):
        bare.classes = None  # texts that a method reads once and for all are no work of an image
    (frozen, _), (forward, step) = (
        flops(backbone, {"image": batch}, loss_fn=lambda model, batch: loss_of(model, batch["image"]))
        for backbone in (bare, installed)
    )
    assert forward <= step and (frozen <= forward) == (not method.shortens)


@on_every_family
def test_gradient_checkpointing_gives_the_same_gradients(method: Method, nudged: Backbone) -> None:
    if not nudged.trainable:
        pytest.skip("nothing trains in the backbone")
    loss_of(nudged).backward()
    plain = {name: parameter.grad for name, parameter in nudged.trainable}
    nudged.zero_grad(set_to_none=True)
    # maps leave the blocks through hooks, which train.recompute bears and timm's own checkpoints do not
    if not method.by_task:
        nudged.net.set_grad_checkpointing(True)  # type: ignore[operator]
    with recomputed([site.module for site in nudged.sites("block")] if method.by_task else []):
        loss_of(nudged).backward()
    for name, parameter in nudged.trainable:
        torch.testing.assert_close(parameter.grad, plain[name], msg=f"another gradient for {name}")


@on_every_family
def test_initialisation_follows_the_seed_and_no_other_source(pair: tuple[Method, str]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index, union-attr]
    first = fresh(*pair, seed=0)
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2]
    torch.manual_seed(2)
    again, other = dict(fresh(*pair, seed=0).trainable), dict(fresh(*pair, seed=1).trainable)
    assert all(torch.equal(parameter, again[name]) for name, parameter in first.trainable)
    if draws_random_numbers(*pair):
        assert any(not torch.equal(parameter, other[name]) for name, parameter in first.trainable)


def draws_random_numbers(method: Method, backbone: str) -> bool:
    built = make(backbone)
    found = backbones.findings(method, backbone)
    before = torch.get_rng_state()
    if found is None:
        method.attach(built)
    else:
        method.attach_with(built, found)
    return not torch.equal(before, torch.get_rng_state())


LOOKING = [name for name in METHODS.names() if METHODS.get(name).observes]


@pytest.mark.parametrize("name", LOOKING)
def test_looking_twice_finds_the_same_and_leaves_the_backbone_alone(name: str) -> None:
    method = fitting(name)
    backbone = make(suited(type(method), "vit_cls"))
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(backbone).items()}
    mode = backbone.training
    first, state = look(method, backbone), torch.get_rng_state()
    second = look(method, backbone)
    assert first is not None and second is not None and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(state, torch.get_rng_state()) and backbone.training == mode
    now = tensors_of(backbone)
    assert now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


@pytest.mark.parametrize("name", LOOKING)
def test_a_method_that_looks_is_not_installed_blindly(name: str) -> None:
    with pytest.raises(MethodContractError, match=rf"{name} looks at images first"):
        install(fitting(name), make(suited(METHODS.get(name), "vit_cls")))
