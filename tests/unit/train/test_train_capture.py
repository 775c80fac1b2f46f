from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peftbench.contracts.replaying import NotReplayable, Replayed
from peftbench.tasks.classification import classification_loss
from peftbench.train import capture, evaluate, loop, step
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches, evaluation_batches, training_batches
from peftbench.train.capture import CAPTURED, Graphs, watched
from peftbench.train.evaluate import Measured, Passes
from peftbench.train.loop import FitResult, fit
from peftbench.train.optim import DeviceRates, Schedule, param_groups
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.resident import ResidentEpoch
from peftbench.train.stored import resident_bytes

OPTIM = OptimSpec(lr=0.01, warmup_epochs=0.5, clip_norm=1.0)
# the whole of what batches can have of their own, with a short last batch and a short last step
EVERYTHING = TrainSpec(epochs=3, batch_size=8, accumulate=2, augment="crop_flip", erasing=0.3, mixup=0.2, cutmix=0.5)
SPECS = {
    "plain": TrainSpec(epochs=3, batch_size=16),
    "everything": EVERYTHING,
    "resized": TrainSpec(epochs=2, batch_size=8, augment="rrc_flip", keep_last_batch=False, cutmix=1.0, mix_prob=0.5),
    "bf16": TrainSpec(epochs=3, batch_size=16, precision="bf16", mixup=0.4),
    "fp16": TrainSpec(epochs=3, batch_size=16, precision="fp16"),
}


def data(num: int = 42) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (num, 6, 6, 3), dtype=np.uint8)}, {"label": rng.integers(0, 3, num)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    middle = (nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 8), *middle, nn.Linear(8, 3))


def batches_of(train: TrainSpec, device: str = "cpu", resident: bool = False) -> Batches:
    inputs, targets = data()
    values: Any = {name: torch.as_tensor(value) for name, value in inputs.items()} if resident else inputs
    return training_batches(
        values, targets, train, num_classes=3, seed=0, device=device, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )


def trained(
    train: TrainSpec, against_capture: str, device: str = "cpu", optim: OptimSpec = OPTIM
) -> tuple[FitResult, dict[str, Tensor]]:
    model = network().to(device)
    groups = param_groups(list(model.named_parameters()), [], optim)
    batches = batches_of(train, device, resident=True)
    loss_fn = classification_loss(train.label_smoothing)
    result = fit(model, loss_fn, batches, None, optim, train, groups, 0, against_capture=against_capture)
    return result, model.state_dict()


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, scaled losses, steps and passes are those of a GPU, with records in the place of graphs."""
    monkeypatch.setattr(step, "rates", DeviceRates)
    monkeypatch.setattr(step, "scales", lambda train, device: train.precision == "fp16")
    for module, reason in ((loop, "reason_against"), (evaluate, "reason_against_passes")):
        monkeypatch.setattr(module, "Graphs", Replayed)
        monkeypatch.setattr(module, reason, lambda *_: "")


def moving_clips() -> Batches:
    chance = torch.Generator().manual_seed(0)
    clips = torch.randint(256, (42, 3, 6, 6, 3), dtype=torch.uint8, generator=chance)
    targets = {"label": torch.arange(42) % 3}
    return Batches({"image": clips}, targets, batch_size=16, shuffle=True, augment=Augment("crop_flip", erasing=0.3))


def shuffled_clips() -> Batches:
    clips = torch.randint(256, (42, 3, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return evaluation_batches(
        {"image": clips}, {"label": torch.arange(42)}, TrainSpec(), device="cpu", shuffle_frames=True
    )


def maps() -> Batches:
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(256, (42, 6, 6, 3), dtype=torch.uint8, generator=chance)
    targets = {"class_map": images[..., 0] % 3, "depth": torch.rand(42, 6, 6, generator=chance)}
    augment = Augment("scale_crop_flip", photometric=True)
    return Batches({"image": images}, targets, batch_size=16, shuffle=True, augment=augment)


STATIC = {name: partial(batches_of, train, resident=True) for name, train in SPECS.items()}
STATIC |= {"clips": moving_clips, "shuffled clips": shuffled_clips, "maps": maps}


@pytest.mark.parametrize("name", STATIC)
def test_batches_made_from_static_tensors_are_those_of_the_loop(name: str) -> None:
    batches = STATIC[name]()
    resident = ResidentEpoch(batches)
    for epoch in (1, 0, 1):
        resident.begin(epoch)
        for batch in batches.epoch(epoch):
            made = resident.next(len(batch["image"]))
            assert made.keys() == batch.keys()
            for key in batch:
                torch.testing.assert_close(made[key], batch[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", SPECS)
def test_steps_on_static_tensors_train_to_the_same_bits(name: str, optimizer: str, as_on_cuda: None) -> None:
    optim = dataclasses.replace(OPTIM, name=optimizer)
    plain, expected = trained(SPECS[name], "not here", optim=optim)
    static, state = trained(SPECS[name], "", optim=optim)
    assert static.curve == plain.curve
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert (static.num_steps, static.num_images) == (plain.num_steps, plain.num_images)
    assert (static.capture, plain.capture) == (CAPTURED, "not here")


class LogitsSeen:
    """A meter that keeps what it is given, as meters may."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, outputs: Tensor, batch: dict[str, Tensor]) -> None:
        self.seen.append((outputs, batch["label"], batch["index"]))

    def result(self) -> Measured:
        logits, labels, index = (torch.cat(parts).cpu() for parts in zip(*self.seen, strict=True))
        accuracy = float((logits.argmax(1) == labels).float().mean())
        return Measured({"accuracy": accuracy, "n": len(index)}, logits.numpy())


def passes_of(model: nn.Module, device: str, against_capture: str) -> Passes:
    inputs, targets = data()
    values: Any = {"image": torch.as_tensor(inputs["image"])}
    batches = evaluation_batches(values, targets, TrainSpec(), batch_size=8, device=device)
    return Passes(model, batches, against_capture=against_capture)


def test_passes_on_static_tensors_give_the_same_bits(as_on_cuda: None) -> None:
    model = network()
    plain, static = passes_of(model, "cpu", "not here"), passes_of(model, "cpu", "")
    for _ in range(3):
        expected, found = plain.measure(LogitsSeen()), static.measure(LogitsSeen())
        assert found.metrics == expected.metrics and expected.num_samples == 42
        assert np.array_equal(found.predictions, expected.predictions)
        with torch.no_grad():
            model[1].weight.mul_(0.5)  # the next pass sees the weights as they are then
    assert model.training


def test_on_this_device_steps_are_started_one_by_one_and_the_result_says_why() -> None:
    assert trained(SPECS["plain"], "")[0].capture == "graphs are for CUDA, this is cpu"


class Decoded:
    shape, dtype = (42, 6, 6, 3), np.dtype(np.uint8)

    def read(self, rows: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        return data()[0]["image"][rows]


def test_what_needs_the_host_for_each_batch_is_named() -> None:
    inputs, targets = data()
    images = torch.as_tensor(inputs["image"])
    assert "decoded" in Batches({"image": Decoded()}, targets, batch_size=8).needs_host
    assert "too many" in Batches(inputs, targets, batch_size=8).needs_host
    assert "steered" in Batches({"image": images}, targets, batch_size=8, augment=Augment("contrast")).needs_host
    assert Batches({"image": images}, targets, batch_size=8, augment=Augment("rrc_flip")).needs_host == ""


@pytest.mark.parametrize(("total", "most"), [(80, 10), (4, 1)])
def test_on_a_gpu_lies_what_takes_an_eighth_of_its_memory(
    total: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=total * 2**30))
    assert resident_bytes(torch.device("cuda")) == most * 2**30


def test_the_device_sets_the_rates_of_the_schedule() -> None:
    schedule = Schedule(OPTIM, epochs=3, steps_per_epoch=4)
    model = network()
    named = list(model.named_parameters())
    groups = param_groups(named[:-2], named[-2:], OptimSpec(head_lr_scale=10))
    optimizer = torch.optim.SGD(groups, lr=0.1)
    rates = DeviceRates(optimizer, schedule, torch.device("cpu"))
    kept = [group["lr"] for group in optimizer.param_groups]
    for number in range(schedule.num_steps):
        rates.advance()
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            assert group["lr"] is rate  # written in place
            assert rate == torch.tensor(schedule.lr_at(number) * group["lr_scale"])


def test_the_device_warms_all_groups_up_at_one_constant_rate() -> None:
    spec = OptimSpec(lr=0.1, head_lr_scale=10, warmup_epochs=1, warmup_lr=1e-3, min_lr=0.0, schedule="epochs")
    groups = param_groups([], list(network().named_parameters())[-2:], spec)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    rates = DeviceRates(optimizer, Schedule(spec, epochs=3, steps_per_epoch=2), torch.device("cpu"))
    seen = []
    for _ in range(3):
        rates.advance()
        seen.append([group["lr"].item() for group in optimizer.param_groups])
    assert torch.tensor(seen).equal(torch.tensor([[1e-3] * len(groups)] * 2 + [[1.0] * len(groups)]))


@pytest.fixture
def no_stream_yet() -> Iterator[None]:
    capture._stream.cache_clear()
    yield
    capture._stream.cache_clear()


def test_recordings_of_one_process_share_a_stream(monkeypatch: pytest.MonkeyPatch, no_stream_yet: None) -> None:
    # for each stream cuBLAS keeps memory, which a sweep of many cells would gather
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Stream", made.append)
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        Graphs(lambda sizes: None, torch.device(device))
    assert made == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_a_step_that_cannot_be_recorded_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, no_stream_yet: None) -> None:
    @contextmanager
    def refusing(*_: Any, **__: Any) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", refusing)
    monkeypatch.setattr(capture, "watched", lambda work: work() or "")
    graphs, done = Graphs(lambda sizes: done.append(sizes), torch.device("cuda")), []
    graphs((4,))
    graphs((4,))
    with pytest.raises(RuntimeError, match=r"not permitted when stream is capturing.*runtime\.capture=off"):
        graphs((4,))
    assert done == [(4,), (4,)]


@pytest.mark.gpu
def test_captured_passes_give_the_same_bits_and_see_new_weights() -> None:
    model = network().to("cuda")
    plain, captured = passes_of(model, "cuda", "not here"), passes_of(model, "cuda", "")
    for _ in range(3):
        expected, found = plain.measure(LogitsSeen()), captured.measure(LogitsSeen())
        assert found.metrics == expected.metrics
        assert np.array_equal(found.predictions, expected.predictions)
        with torch.no_grad():
            model[1].weight.mul_(0.5)
    assert captured._shown._graphs.outcome == CAPTURED


@pytest.mark.gpu
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_captured_steps_train_to_the_same_bits(name: str, optimizer: str) -> None:
    optim = OptimSpec(name=optimizer, lr=0.01, warmup_epochs=0.5, clip_norm=1.0)
    train = SPECS[name]
    plain, expected = trained(train, "not here", "cuda", optim)
    captured, state = trained(train, "", "cuda", optim)
    assert captured.capture == CAPTURED
    assert captured.curve == plain.curve
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def record_on_a_cpu(work: Callable[[Tensor], None]) -> None:
    x = torch.zeros(4)
    graphs = Replayed(lambda sizes: work(x), x.device)
    for _ in range(3):
        graphs((4,))


def wait(x: Tensor) -> None:
    x.sum().item()


def draw_by_python(x: Tensor) -> None:
    x.add_(random.random())


def draw_by_torch(x: Tensor) -> None:
    x.add_(torch.rand(1).to(x.device, non_blocking=True))


def read_by_mask(x: Tensor) -> None:
    x.add_(x[x > 0].sum())


@pytest.mark.parametrize(("work", "why"), [(wait, "waits"), (read_by_mask, "waits")])
def test_the_stand_in_for_graphs_refuses_what_a_graph_cannot_hold(work: Callable[[Tensor], None], why: str) -> None:
    with pytest.raises(NotReplayable, match=why):
        record_on_a_cpu(work)


def test_the_stand_in_for_graphs_reads_no_memory_that_was_given_back() -> None:
    kept = {"ones": torch.ones(4)}
    x = torch.zeros(4)
    graphs = Replayed(lambda sizes: x.add_(kept["ones"]), x.device)
    for _ in range(3):
        graphs((4,))
    assert x.tolist() == [3.0] * 4
    kept["ones"] = torch.ones(4)
    with pytest.raises(NotReplayable, match="given back"):
        graphs((4,))


def test_watching_says_what_the_work_says_and_no_word_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_mode(mode: object) -> None:
        if mode == "warn":
            warnings.warn("a prototype feature", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert watched(lambda: warnings.warn("about the data", stacklevel=1)) == ""
        assert "waits" in watched(lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1))
        assert "drawn" in watched(lambda: draw_by_python(torch.zeros(4)))
    assert [str(warning.message) for warning in caught] == ["about the data"]


@pytest.mark.gpu
@pytest.mark.parametrize(("work", "why"), [(wait, "waits"), (draw_by_python, "drawn"), (draw_by_torch, "drawn")])
def test_work_that_the_host_has_a_part_in_is_never_recorded(work: Callable[[Tensor], None], why: str) -> None:
    x = torch.zeros(4, device="cuda")
    graphs = Graphs(lambda sizes: work(x), x.device)
    with graphs.running():
        for _ in range(5):
            graphs((4,))
    assert why in graphs.outcome
    assert watched(lambda: None) == ""
