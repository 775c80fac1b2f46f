from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peftbench.foundation.errors import ConfigError, TrainingDiverged
from peftbench.foundation.metric import ACCURACY, LOWER, Metric
from peftbench.tasks.classification import ClassificationMeter, classification_loss
from peftbench.train.batches import Batch, Batches, evaluation_batches, training_batches
from peftbench.train.evaluate import evaluate
from peftbench.train.loop import FitResult, fit
from peftbench.train.optim import param_groups
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.survey import TrainingSurvey

OPTIM = OptimSpec(lr=0.01, warmup_epochs=1.0)


def data(num: int = 42) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Noise with two bright rows whose place tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, num)
    bright = np.arange(6)[None] // 2 == labels[:, None]
    images = (bright[:, :, None, None] * 150 + rng.integers(0, 60, (num, 6, 6, 3))).astype(np.uint8)
    return {"image": images}, {"label": labels}


def measured(model: nn.Module, batches: Batches) -> dict[str, Any]:
    return dict(evaluate(model, batches, ClassificationMeter()).metrics)


def network(dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(8, affine=False) if norm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 8), middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def run(
    model: nn.Module,
    train: TrainSpec,
    optim: OptimSpec = OPTIM,
    *,
    seed: int = 0,
    validate: Callable[[], float] | None = None,
    metric: Metric = ACCURACY,
    loss_fn: Any = None,
    on_epoch: Any = None,
) -> FitResult:
    batches = training_batches(*data(), train, num_classes=3, seed=seed, device="cpu")
    named = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    loss_fn = loss_fn or classification_loss(train.label_smoothing)
    return fit(model, loss_fn, batches, validate, optim, train, param_groups(named, [], optim), seed, on_epoch, metric)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_training_learns_and_reports_every_epoch() -> None:
    train = TrainSpec(epochs=8, batch_size=16)
    model = network()
    rows: list[dict[str, Any]] = []
    result = run(model, train, on_epoch=rows.append)
    assert result.curve == rows
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert all(row["val_accuracy"] is None for row in rows)
    assert (result.epoch_selected, result.best_state) == (8, None)
    assert (result.num_steps, result.num_images) == (8 * 3, 8 * 42)
    assert measured(model, evaluation_batches(*data(), train, device="cpu"))["accuracy"] > 0.9
    assert 0 <= result.seconds["data"] <= result.seconds["train"]


def test_curve_loss_is_the_mean_over_samples() -> None:
    # with a rate near zero the model stands still, and the mean over 16+16+10 samples is the loss of the whole split
    optim = OptimSpec(lr=1e-12, min_lr=0.0, warmup_epochs=0)
    model = network()
    expected = measured(model, evaluation_batches(*data(), TrainSpec(), device="cpu"))["loss"]
    result = run(model, TrainSpec(epochs=1, batch_size=16), optim)
    assert result.curve[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_gives_the_same_bits_and_another_seed_does_not(precision: str) -> None:
    train = TrainSpec(epochs=2, batch_size=16, augment="crop_flip", mixup=0.2, precision=precision)
    states: list[dict[str, Tensor]] = []
    curves = []
    for seed in (0, 0, 1):
        model = network(dropout=0.5)
        torch.manual_seed(99 + len(states))  # what ran before must not matter
        curves.append(run(model, train, seed=seed).curve)
        states.append(state(model))
    assert same(states[0], states[1])
    assert curves[0] == curves[1]
    assert not same(states[0], states[2])


def test_accumulated_micro_batches_equal_one_large_batch() -> None:
    # 42 samples: batches of 16, 16, 10 against micro-batches of 4 in fours, whose last group is 4, 4, 2
    optim = OptimSpec(name="sgd", lr=0.1, warmup_epochs=0, clip_norm=0.5)
    large, small = network(), network()
    result = run(large, TrainSpec(epochs=2, batch_size=16), optim)
    accumulated = run(small, TrainSpec(epochs=2, batch_size=4, accumulate=4), optim)
    assert result.num_steps == accumulated.num_steps == 6
    for name, tensor in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    losses = [[row["loss"] for row in fitted.curve] for fitted in (result, accumulated)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_pass_without_steps_has_the_gradients_of_steps_and_changes_nothing(accumulate: int) -> None:
    train = TrainSpec(epochs=3, batch_size=16 // accumulate, accumulate=accumulate)
    batches = training_batches(*data(), train, num_classes=3, seed=0, device="cpu")
    model, optim = network(norm=True), OptimSpec(lr=0.01, warmup_epochs=1.0, clip_norm=1e-3)
    steps: list[int] = []
    seen: list[tuple[int, list[float], list[int], list[Tensor]]] = []

    def before_epochs(survey: TrainingSurvey) -> Callable[[int], None]:
        assert survey.clip_norm == 1e-3 and {id(t) for t in survey.tensors} == {id(t) for t in model.parameters()}

        def ahead(epoch: int) -> None:
            before = state(model)
            losses, sizes, slopes = [], [], [torch.zeros_like(tensor) for tensor in model.parameters()]
            for loss, size in survey(epoch):
                losses.append(loss)
                sizes.append(size)
                for total, tensor in zip(slopes, model.parameters(), strict=True):
                    assert tensor.grad is not None
                    total += tensor.grad * size / 42
            assert same(before, state(model)) and all(tensor.grad is None for tensor in model.parameters())
            seen.append((epoch, losses, sizes, slopes))

        return ahead

    batches.on_batch = lambda: steps.append(1)
    groups = param_groups(list(model.named_parameters()), [], optim)
    fit(*(model, classification_loss(0.0), batches, None, optim, train, groups, 0), before_epochs=before_epochs)
    assert [epoch for epoch, *_ in seen] == [0, 1, 2] and all(sizes == [16, 16, 10] for _, _, sizes, _ in seen)
    assert len(steps) == 3 * len(batches)
    assert same(state(model), state(trained_without(train, optim)))


def test_gradients_of_a_pass_are_those_of_all_images() -> None:
    train, optim = TrainSpec(epochs=1, batch_size=16), OptimSpec(warmup_epochs=0.0)
    batches = training_batches(*data(), train, num_classes=3, seed=0, device="cpu")
    model, plain = network(), network()

    def before_epochs(survey: TrainingSurvey) -> Callable[[int], None]:
        def ahead(epoch: int) -> None:
            total, slopes = 0.0, [torch.zeros_like(tensor) for tensor in model.parameters()]
            for loss, size in survey(epoch):
                total += loss * size / 42
                for slope, tensor in zip(slopes, model.parameters(), strict=True):
                    assert tensor.grad is not None
                    slope += tensor.grad * size / 42
            exact = classification_loss(0.0)(plain, next(iter(Batches(*data(), batch_size=42).epoch(0))))
            assert total == pytest.approx(exact.item())
            for slope, expected in zip(slopes, torch.autograd.grad(exact, list(plain.parameters())), strict=True):
                torch.testing.assert_close(slope, expected, atol=1e-6, rtol=1e-4)

        return ahead

    groups = param_groups(list(model.named_parameters()), [], optim)
    fit(*(model, classification_loss(0.0), batches, None, optim, train, groups, 0), before_epochs=before_epochs)


def trained_without(train: TrainSpec, optim: OptimSpec) -> nn.Module:
    model = network(norm=True)
    run(model, train, optim, loss_fn=classification_loss(0.0))
    return model


def test_clipping_limits_the_step() -> None:
    optim = OptimSpec(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, warmup_epochs=0, clip_norm=1e-3)
    model = network()
    before = state(model)
    run(model, TrainSpec(epochs=1, batch_size=64), optim)
    moved = sum(((tensor - before[name]) ** 2).sum() for name, tensor in state(model).items())
    assert float(moved) ** 0.5 == pytest.approx(1e-3, rel=1e-3)


def test_frozen_tensors_do_not_move() -> None:
    model = network()
    model[1].requires_grad_(False)
    before = state(model)
    run(model, TrainSpec(epochs=2, batch_size=16))
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"5.weight", "5.bias"}


def test_a_tensor_missing_from_the_groups_is_noticed() -> None:
    model = network()
    groups = param_groups([], model[5].named_parameters(), OPTIM)
    batches = Batches(*data(), batch_size=16)
    with pytest.raises(AssertionError, match="all and only"):
        fit(model, classification_loss(), batches, None, OPTIM, TrainSpec(), groups, 0)


def test_a_loss_that_is_not_finite_stops_with_step_and_epoch() -> None:
    calls = []

    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        loss = classification_loss()(model, batch)
        return loss * float("nan") if len(calls) == 5 else loss

    # 3 steps an epoch: the fifth step lies in the second epoch; later steps are bad as well but not the first
    with pytest.raises(TrainingDiverged, match=r"step 5 \(epoch 2 of 4\).*a smaller optim\.lr or optim\.clip_norm=1$"):
        run(network(), TrainSpec(epochs=4, batch_size=16), loss_fn=loss_fn)
    assert len(calls) == 6
    calls.clear()
    with pytest.raises(TrainingDiverged, match=r"optim\.clip_norm=1 or train\.precision=fp32$"):
        run(network(), TrainSpec(epochs=4, batch_size=16, precision="bf16"), loss_fn=loss_fn)


def test_tensors_ruined_by_the_very_last_step_are_noticed() -> None:
    def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
        loss = classification_loss()(model, batch)
        loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    with pytest.raises(TrainingDiverged, match=r"a trained tensor is not finite at step 1 \(epoch 1 of 2\)"):
        run(network(), TrainSpec(epochs=2, batch_size=64), loss_fn=loss_fn)


def scripted(model: nn.Module, values: list[float], seen: list[dict[str, Tensor]]) -> Callable[[], float]:
    """A validation that says `values[i]` of epoch i, and keeps the model's state at that moment."""
    remaining = iter(values)

    def validate() -> float:
        seen.append(state(model))
        return next(remaining)

    return validate


@pytest.mark.parametrize(
    ("metric", "values"), [(ACCURACY, [0.2, 0.7, 0.7, 0.5]), (Metric("rmse", LOWER, "metres"), [3.0, 0.7, 0.7, 0.9])]
)
def test_best_val_restores_the_first_best_epoch_with_its_running_statistics(
    metric: Metric, values: list[float]
) -> None:
    seen: list[dict[str, Tensor]] = []
    model = network(norm=True).eval()  # training must switch to train mode by itself, or the statistics stand still
    train = TrainSpec(epochs=4, batch_size=16, select="best_val")
    result = run(model, train, validate=scripted(model, values, seen), metric=metric)
    assert result.epoch_selected == 2
    assert [row[f"val_{metric.name}"] for row in result.curve] == values
    assert same(seen[1], state(model))
    assert not same(seen[3], state(model))
    assert not torch.equal(seen[1]["2.running_mean"], seen[3]["2.running_mean"])
    assert result.best_state is not None
    assert set(result.best_state) == set(model.state_dict())


def test_last_keeps_the_last_epoch_whatever_validation_says() -> None:
    seen: list[dict[str, Tensor]] = []
    model = network()
    result = run(model, TrainSpec(epochs=2, batch_size=16), validate=scripted(model, [0.9, 0.1], seen))
    assert result.epoch_selected == 2
    assert same(seen[1], state(model))


def test_validating_does_not_change_training() -> None:
    states = []
    val = Batches(*data(30), batch_size=8)
    for validates in (False, True):
        model = network(dropout=0.5, norm=True)
        validate = partial(lambda model: measured(model, val)["accuracy"], model) if validates else None
        run(model, TrainSpec(epochs=3, batch_size=16), validate=validate)
        states.append(state(model))
    assert same(*states)


def test_options_that_do_not_fit_are_refused_together() -> None:
    with pytest.raises(ConfigError) as error:
        run(network(), TrainSpec(epochs=5, select="best_val"), OptimSpec(warmup_epochs=5))
    assert len(error.value.problems) == 2
    assert "train.select=best_val needs a validation split" in str(error.value)


def test_an_interrupt_passes_through() -> None:
    def interrupt(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(network(), TrainSpec(epochs=3), on_epoch=interrupt)


def test_label_smoothing_and_soft_targets_enter_the_loss() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
    batch = {"image": logits, "label": torch.tensor([0, 2])}
    log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()
    smoothed = 0.7 * torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]) + 0.1
    expected = -(smoothed * log_p).sum(dim=1).mean()
    torch.testing.assert_close(classification_loss(0.3)(nn.Identity(), batch), expected)
    soft = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.0, 0.9]])
    expected = -(soft * log_p).sum(dim=1).mean()
    torch.testing.assert_close(classification_loss()(nn.Identity(), batch | {"target": soft}), expected)


def test_each_batch_says_its_epoch_and_its_step_of_the_optimiser() -> None:
    """42 images in batches of 10 are five micro-batches an epoch, two to a step."""
    seen: list[tuple[set[int], set[int], int]] = []
    base = classification_loss()

    def loss_fn(model: Any, batch: Batch) -> Tensor:
        seen.append((set(batch["epoch"].tolist()), set(batch["step"].tolist()), len(batch["step"])))
        return base(model, batch)

    run(network(), TrainSpec(epochs=2, batch_size=10, accumulate=2), loss_fn=loss_fn)
    sizes, steps = [10, 10, 10, 10, 2], [0, 0, 1, 1, 2]
    expected = [({e}, {3 * e + step}, size) for e in range(2) for step, size in zip(steps, sizes, strict=True)]
    assert seen == expected
