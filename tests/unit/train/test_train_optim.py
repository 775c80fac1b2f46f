from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from peftbench.foundation.errors import ConfigError
from peftbench.train.optim import Schedule, build_optimizer, param_groups, require_words
from peftbench.train.options import OptimSpec


def model() -> nn.Module:
    return nn.ModuleDict({"method": nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), "head": nn.Linear(4, 2)})


def groups_of(net: nn.Module, spec: OptimSpec) -> list[dict[str, object]]:
    return param_groups(net["method"].named_parameters(), net["head"].named_parameters(), spec)  # type: ignore[index]


def test_biases_norms_and_scales_are_not_decayed() -> None:
    net = model()
    net["method"].register_parameter("scale", nn.Parameter(torch.ones(())))  # type: ignore[index]
    groups = groups_of(net, OptimSpec(weight_decay=0.05))
    assert {group["name"]: (group["names"], group["weight_decay"]) for group in groups} == {
        "method/decay": (["0.weight"], 0.05),
        "method/no_decay": (["scale", "0.bias", "1.weight", "1.bias"], 0.0),
        "head/decay": (["weight"], 0.05),
        "head/no_decay": (["bias"], 0.0),
    }


def test_decay_vectors_decays_every_tensor_as_a_plain_optimiser_does() -> None:
    groups = groups_of(model(), OptimSpec(weight_decay=0.05, decay_vectors=True))
    assert {group["name"]: (group["names"], group["weight_decay"]) for group in groups} == {
        "method/decay": (["0.weight", "0.bias", "1.weight", "1.bias"], 0.05),
        "head/decay": (["weight", "bias"], 0.05),
    }


def test_tensors_named_as_undecayed_have_no_decay_whatever_their_shape() -> None:
    spec = OptimSpec(weight_decay=0.05, decay_vectors=True, undecayed=["1.", "0.weight"])
    assert {group["name"]: group["names"] for group in groups_of(model(), spec)} == {
        "method/decay": ["0.bias"],
        "method/no_decay": ["0.weight", "1.weight", "1.bias"],
        "head/decay": ["weight", "bias"],
    }


def test_an_undecayed_word_of_no_name_and_an_empty_one_are_refused() -> None:
    names = ["net.norm.weight", "head.bias"]
    require_words(names, OptimSpec(undecayed=["norm.", "head"]))
    with pytest.raises(
        ConfigError, match=r"'norn' is in no name of what trains, such as net\.norm\.weight, head\.bias"
    ):
        require_words(names, OptimSpec(undecayed=["norn"]))
    with pytest.raises(ConfigError, match=r"optim\.undecayed holds an empty word"):
        OptimSpec(undecayed=[""])


def test_a_methods_tensors_with_a_rate_of_their_own_make_groups_of_their_own() -> None:
    net, spec = model(), OptimSpec(lr=0.1, head_lr_scale=3.0)
    own = {"0.weight": 16.0, "0.bias": 16.0}
    groups = param_groups(
        net["method"].named_parameters(),  # type: ignore[index]
        net["head"].named_parameters(),  # type: ignore[index]
        spec,
        lambda name: own.get(name, 1.0),
    )
    assert [(group["name"], group["names"], group["lr_scale"]) for group in groups] == [
        ("method x 16/decay", ["0.weight"], 16.0),
        ("method x 16/no_decay", ["0.bias"], 16.0),
        ("method/no_decay", ["1.weight", "1.bias"], 1.0),
        ("head/decay", ["weight"], 3.0),
        ("head/no_decay", ["bias"], 3.0),
    ]
    optimizer = build_optimizer(groups, spec)
    rate = Schedule(spec, epochs=20, steps_per_epoch=1).apply(optimizer, 12)
    assert [group["lr"] for group in optimizer.param_groups] == [rate * scale for scale in (16, 16, 1, 3, 3)]


def test_no_decay_tensors_keep_their_value_without_a_gradient() -> None:
    net = model()
    spec = OptimSpec(weight_decay=0.5, lr=0.1)
    optimizer = build_optimizer(groups_of(net, spec), spec)
    for tensor in net.parameters():
        nn.init.ones_(tensor)
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    for tensor in net.parameters():
        expected = 1 - 0.1 * 0.5 if tensor.ndim > 1 else 1.0
        torch.testing.assert_close(tensor.detach(), torch.full_like(tensor, expected))


def test_groups_without_tensors_are_left_out_and_none_at_all_is_an_error() -> None:
    head = nn.Linear(4, 2)
    groups = param_groups([], head.named_parameters(), OptimSpec())
    assert [group["name"] for group in groups] == ["head/decay", "head/no_decay"]
    with pytest.raises(ConfigError, match="nothing to train"):
        param_groups([], [], OptimSpec())


def test_schedule_matches_rates_computed_by_hand() -> None:
    # 2 warm-up epochs of 5, 4 steps each: 8 warm-up steps, 12 cosine steps
    spec = OptimSpec(lr=1e-3, warmup_epochs=2, warmup_lr=1e-6, min_lr=1e-5)
    schedule = Schedule(spec, epochs=5, steps_per_epoch=4)
    assert (schedule.num_warmup_steps, schedule.num_steps) == (8, 20)
    assert schedule.lr_at(0) == pytest.approx(1e-6)
    assert schedule.lr_at(4) == pytest.approx(0.0005005)
    assert schedule.lr_at(8) == pytest.approx(1e-3)
    assert schedule.lr_at(12) == pytest.approx(1e-5 + 0.99e-3 * 0.75)  # cos 60 degrees = 1/2
    assert schedule.lr_at(14) == pytest.approx(1e-5 + 0.99e-3 * 0.5)
    assert schedule.lr_at(19) == pytest.approx(1e-5 + 0.99e-3 * 0.5 * (1 + math.cos(math.radians(165))))
    rates = [schedule.lr_at(step) for step in range(20)]
    assert rates[:9] == sorted(rates[:9])
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert min(rates[8:]) > 1e-5


def test_polynomial_rate_follows_mmsegmentations_recursion() -> None:
    """PolyLR multiplies what lies above `min_lr` by (1 - 1 / (steps left)) ** power from step to step."""
    spec = OptimSpec(lr=6e-3, warmup_epochs=1, warmup_lr=0.0, min_lr=1e-4, schedule="poly")
    schedule = Schedule(spec, epochs=6, steps_per_epoch=4)
    assert [schedule.lr_at(step) for step in range(5)] == pytest.approx([0, 1.5e-3, 3e-3, 4.5e-3, 6e-3])
    rate = spec.lr
    for step in range(5, 24):
        rate = (rate - spec.min_lr) * (1 - 1 / (24 - step + 1)) ** 0.9 + spec.min_lr
        assert schedule.lr_at(step) == pytest.approx(rate)
    straight = Schedule(replace(spec, power=1.0), epochs=6, steps_per_epoch=4)
    assert straight.lr_at(14) == pytest.approx((6e-3 + 1e-4) / 2)


def test_the_power_is_of_the_polynomial_rate_alone() -> None:
    with pytest.raises(ConfigError, match=r"optim\.power is of optim\.schedule=poly, which is steps"):
        OptimSpec(power=1.0)
    assert "power" not in OptimSpec().identity() and "power" not in OptimSpec(schedule="poly").identity()


def test_schedule_without_warm_up_starts_at_the_full_rate_and_may_end_at_zero() -> None:
    schedule = Schedule(OptimSpec(lr=0.5, warmup_epochs=0, min_lr=0.0), epochs=2, steps_per_epoch=1)
    assert [schedule.lr_at(0), schedule.lr_at(1)] == pytest.approx([0.5, 0.25])


def test_head_rate_is_the_scheduled_rate_times_its_scale() -> None:
    net = model()
    spec = OptimSpec(lr=1e-3, head_lr_scale=10.0, warmup_epochs=1)
    optimizer = build_optimizer(groups_of(net, spec), spec)
    schedule = Schedule(spec, epochs=10, steps_per_epoch=10)
    for step in (0, 5, 10, 60, 99):
        lr = schedule.apply(optimizer, step)
        assert lr == schedule.lr_at(step)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr, lr, 10 * lr, 10 * lr])


def test_adamw_first_step_moves_by_the_rate_against_the_gradient() -> None:
    net = model()
    spec = OptimSpec(lr=0.01, weight_decay=0.0, betas=[0.8, 0.9])
    optimizer = build_optimizer(groups_of(net, spec), spec)
    before = [tensor.detach().clone() for tensor in net.parameters()]
    for tensor in net.parameters():
        tensor.grad = torch.full_like(tensor, -3.0)
    optimizer.step()
    for tensor, start in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(tensor.detach(), start + 0.01)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


def test_sgd_keeps_momentum() -> None:
    net = model()
    spec = OptimSpec(name="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    optimizer = build_optimizer(groups_of(net, spec), spec)
    before = [tensor.detach().clone() for tensor in net.parameters()]
    for _ in range(2):
        for tensor in net.parameters():
            tensor.grad = torch.ones_like(tensor)
        optimizer.step()
    for tensor, start in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(tensor.detach(), start - 0.1 * 1 - 0.1 * 1.5)


def test_sgd_starts_from_no_momentum_though_a_scaler_skips_its_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    # memory that nothing has written yet may hold anything
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **_: torch.full_like(tensor, math.nan))
    weight = nn.Parameter(torch.zeros(2, 2))
    spec = OptimSpec(name="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    optimizer = build_optimizer(param_groups([("weight", weight)], [], spec), spec)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for gradient in (math.inf, 1.0, 1.0):
        scaler.scale(weight.sum()).backward()
        weight.grad.fill_(gradient)  # type: ignore[union-attr]
        scaler.step(optimizer)
        scaler.update(1.0)
        optimizer.zero_grad(set_to_none=True)
    assert weight[0, 0].item() == pytest.approx(-0.1 * (1 + 1.5))


def test_sgd_takes_a_tensor_whose_first_gradient_comes_later() -> None:
    early, late = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
    spec = OptimSpec(name="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    optimizer = build_optimizer(param_groups([("early", early), ("late", late)], [], spec), spec)
    for used in ([early], [early, late], [early, late]):
        for tensor in used:
            tensor.grad = torch.ones_like(tensor)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert early[0, 0].item() == pytest.approx(-0.1 * (1 + 1.5 + 1.75))
    assert late[0, 0].item() == pytest.approx(-0.1 * (1 + 1.5))
