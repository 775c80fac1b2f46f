"""What is frozen in a pass, found by following tensors, and the replay of a model without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftbench.train.batches import Batches
from peftbench.train.frozen import FrozenWork, frozen_work
from peftbench.train.replay import Replay, kept_values, repeats

WIDTH = 8


class Chain(nn.Module):
    """Linear maps one behind the other, with an elementwise step between."""

    def __init__(self, *maps: nn.Module) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.maps:
            x = module(x).relu()
        return x


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def maps(count: int) -> list[nn.Module]:
    return [frozen(nn.Linear(WIDTH, WIDTH)) for _ in range(count)]


def work_of(model: nn.Module, training: bool = True) -> FrozenWork:
    return frozen_work(model.train(training), (torch.randn(3, WIDTH),))


def kept_modules(model: nn.Module, training: bool = True) -> list[nn.Module]:
    return [call.module for call in work_of(model, training).kept]


def test_what_lies_ahead_of_the_first_trained_tensor_is_kept_at_its_last_output() -> None:
    first, second, third = maps(3)
    work = work_of(Chain(first, second, third.requires_grad_(True)))
    assert [call.module for call in work.kept] == [second] and [call.module for call in work.idle] == [first]
    assert work.kept[0].shape == (WIDTH,) and work.bytes_per_sample == 4 * WIDTH
    assert work.share == pytest.approx(2 / 3) and not work.reads_inputs


def test_a_model_without_trained_tensors_is_kept_as_a_whole() -> None:
    model = Chain(*maps(2))
    assert kept_modules(model) == [model] and work_of(model).share == 1


def test_random_numbers_move_in_train_mode_and_not_in_eval_mode() -> None:
    first, second = maps(2)
    model = Chain(first, nn.Dropout(0.5), second)
    assert kept_modules(model) == [first]
    assert kept_modules(model, training=False) == [model]


def test_batch_statistics_move_in_train_mode_and_not_in_eval_mode() -> None:
    first, second = maps(2)
    model = Chain(first, frozen(nn.BatchNorm1d(WIDTH)), second)
    assert kept_modules(model) == [first]
    assert kept_modules(model, training=False) == [model]


def test_detaching_does_not_hide_that_a_tensor_moves() -> None:
    class Detached(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first, second = self.maps
            y: Tensor = second(first(x).detach())
            return y

    assert kept_modules(Detached(nn.Linear(WIDTH, WIDTH), *maps(1))) == []


def test_a_number_read_by_python_moves_all_that_follows() -> None:
    class Routed(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first, second, third = self.maps
            x = first(x)
            y: Tensor = (second if torch.rand(()).item() < 0.5 else third)(x)
            return y

    first, second, third = maps(3)
    assert kept_modules(Routed(first, second, third)) == [first]


def test_writing_in_place_is_followed() -> None:
    class InPlace(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first, second, third = self.maps
            x = first(x)
            x.add_(second(x.detach().clone()))
            y: Tensor = third(x)
            return y

    first, third = maps(2)
    assert kept_modules(InPlace(first, nn.Linear(WIDTH, WIDTH), third)) == [first]


def test_what_a_side_path_reads_is_kept_and_what_nothing_reads_is_left_out() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = maps(3)
            self.side = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            first = self.first(x)
            third = self.third(self.second(first))
            return self.side(first) + third + x

    model = Beside()
    work = work_of(model)
    assert [call.module for call in work.kept] == [model.first, model.third]
    assert [call.module for call in work.idle] == [model.second]
    assert work.reads_inputs, "the sum reads the inputs"


def test_a_module_called_twice_is_kept_call_by_call() -> None:
    class Twice(Chain):
        def forward(self, x: Tensor) -> Tensor:
            shared, trained = self.maps
            return shared(trained(shared(x))) + shared(shared(x))

    shared = maps(1)[0]
    work = work_of(Twice(shared, nn.Linear(WIDTH, WIDTH)))
    # the second call, numbered 1, reads what moves; the third one's result goes nowhere but into the fourth
    assert [(call.module, call.number) for call in work.kept] == [(shared, 0), (shared, 3)]
    assert [(call.module, call.number) for call in work.idle] == [(shared, 2)]


def test_a_call_is_not_kept_whole_when_something_else_reads_a_part_of_it() -> None:
    inner = Chain(*maps(2))
    model = Chain(inner, nn.Linear(WIDTH, WIDTH))
    seen: list[Tensor] = []
    head = nn.Linear(WIDTH, WIDTH)

    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = model, head
            inner.maps[0].register_forward_hook(lambda module, args, output: seen.append(output))

        def forward(self, x: Tensor) -> Tensor:
            y = self.model(x)
            return y + self.head(seen.pop())

    assert kept_modules(Reading()) == [inner.maps[0], inner.maps[1]]


def parts() -> tuple[nn.Module, Batches, Batches]:
    torch.manual_seed(0)
    first, second = maps(2)
    model = Chain(first, second, nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH)).train()
    data = {"image": torch.randn(24, WIDTH)}, {"label": torch.zeros(24, dtype=torch.int64)}
    return model, Batches(*data, batch_size=8), Batches(*data, batch_size=8, shuffle=True, seed=3)


def test_a_replay_gives_what_the_model_gives_with_less_work() -> None:
    model, in_order, shuffled = parts()
    work = work_of(model)
    values = [torch.empty(24, *call.packed_shape) for call in work.kept]
    state = torch.get_rng_state()
    kept_values(model, work.kept, in_order, "fp32", values)
    replay = Replay(model, work, {"image": (WIDTH,)})
    assert replay.inputs == ("kept.0",)
    assert repeats(replay, shuffled, "fp32", values)
    assert torch.equal(torch.get_rng_state(), state)
    values[0][5] += 1
    assert not repeats(replay, shuffled, "fp32", values), "a wrong value must be seen"
    assert model.maps[0].forward.__self__ is model.maps[0], "modules compute as before"  # type: ignore[index, union-attr]


def test_numbers_that_depend_on_the_batch_are_seen() -> None:
    class OfBatch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.eye(WIDTH) * x.sum()

    torch.manual_seed(0)
    model = nn.Sequential(OfBatch(), nn.Linear(WIDTH, WIDTH))
    work = work_of(model)
    _, in_order, shuffled = parts()
    values = [torch.empty(24, *call.packed_shape) for call in work.kept]
    kept_values(model, work.kept, in_order, "fp32", values)
    assert not repeats(Replay(model, work, {"image": (WIDTH,)}), shuffled, "fp32", values)
