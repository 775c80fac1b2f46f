from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
import timm
import torch
from torch import nn

from peftbench.tasks.classification import classification_loss
from peftbench.train import measure as meter
from peftbench.train.measure import PeakMemory, Stopwatch, flops, training_memory
from peftbench.train.options import OptimSpec
from peftbench.train.precision import round_frozen

BATCH, IN, HIDDEN, OUT = 7, 10, 20, 3
FLOAT = 4


def images_of(*shape: int) -> dict[str, torch.Tensor]:
    return {"image": torch.zeros(shape)}


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT))


def batch() -> dict[str, torch.Tensor]:
    return {"image": torch.randn(BATCH, IN), "label": torch.zeros(BATCH, dtype=torch.int64)}


def output_sum(model: nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    output: torch.Tensor = model(given["image"])
    return output.sum()


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5
    )


ALL = FLOAT * (IN * HIDDEN + HIDDEN + HIDDEN * OUT + OUT)
LAST = FLOAT * (HIDDEN * OUT + OUT)
ACTIVATION = FLOAT * BATCH * HIDDEN


@pytest.mark.parametrize(
    ("trainable", "gradients", "saved"),
    [
        # ReLU saves its output, which is also the input of the last layer: one storage. The input batch is not counted.
        ({0, 2}, ALL, ACTIVATION),
        ({2}, LAST, ACTIVATION),
        # only the first layer: ReLU's output is still needed, the last layer needs its weight (not counted)
        ({0}, ALL - LAST, ACTIVATION),
    ],
)
def test_memory_of_a_two_layer_network_matches_a_hand_count(trainable: set[int], gradients: int, saved: int) -> None:
    model = mlp()
    for layer in (0, 2):
        model[layer].requires_grad_(layer in trainable)
    memory = training_memory(model, output_sum, batch(), OptimSpec())
    assert memory == {
        "weights_bytes": ALL,
        "gradients_bytes": gradients,
        "optimizer_bytes": 2 * gradients,
        "saved_bytes": saved,
        "total_bytes": ALL + 3 * gradients + saved,
        "batch_size": BATCH,
    }


def test_a_frozen_stem_below_the_trained_layer_saves_nothing() -> None:
    # two frozen layers with ReLU, then a trained one: only that one's input is kept
    model = nn.Sequential(
        nn.Linear(IN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUT)
    )
    model.requires_grad_(False)
    model[4].requires_grad_(True)
    assert training_memory(model, output_sum, batch(), OptimSpec())["saved_bytes"] == ACTIVATION


def test_the_memory_probe_lets_go_of_what_it_counted() -> None:
    model = mlp()
    kept: list[weakref.ref[torch.Tensor]] = []
    # sigmoid saves its own output: the case in which a graph can come to hold itself
    model[1] = nn.Sigmoid()
    model[1].register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
    training_memory(model, output_sum, batch(), OptimSpec())
    gc.collect()
    assert kept and all(reference() is None for reference in kept)


@pytest.mark.parametrize(("options", "states"), [({"momentum": 0.9}, 1), ({"momentum": 0.0}, 0)])
def test_optimizer_bytes_of_sgd(options: dict[str, Any], states: int) -> None:
    memory = training_memory(mlp(), output_sum, batch(), OptimSpec(name="sgd", **options))
    assert memory["optimizer_bytes"] == states * ALL


def test_saved_views_of_one_storage_count_once_and_buffers_are_weights() -> None:
    class Twice(nn.Module):
        matrix: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(HIDDEN))
            self.register_buffer("matrix", torch.randn(IN, HIDDEN))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = x @ self.matrix
            left, right = hidden.chunk(2, dim=1)
            return torch.cat([left * self.scale[: HIDDEN // 2], right * self.scale[HIDDEN // 2 :]], dim=1)

    memory = training_memory(Twice(), output_sum, batch(), OptimSpec())
    assert memory["saved_bytes"] == ACTIVATION
    assert memory["weights_bytes"] == FLOAT * (HIDDEN + IN * HIDDEN)


def macs_of_vit(width: int, depth: int, tokens: int, classes: int) -> dict[str, int]:
    """Multiply-adds of one image through a ViT with 8 x 8 patches, counted by hand."""
    return {
        "embed": (tokens - 1) * 3 * 8 * 8 * width,
        "linears": depth * tokens * (3 * width**2 + width**2 + 2 * 4 * width**2),
        "attention": depth * 2 * tokens**2 * width,
        "head": width * classes,
    }


def test_flops_of_a_vit_match_the_formula() -> None:
    macs = macs_of_vit(width=48, depth=2, tokens=17, classes=5)
    forward = 2 * sum(macs.values())
    # backward costs two products per product, except that no gradient for the image is needed
    assert flops(vit(), images_of(2, 3, 32, 32)) == (forward, 3 * forward - 2 * macs["embed"])
    assert flops(vit(), images_of(1, 3, 32, 32)) == (forward, 3 * forward - 2 * macs["embed"])


def test_flops_follow_what_is_trainable() -> None:
    model = vit()
    model.requires_grad_(False)
    forward = flops(model, images_of(2, 3, 32, 32))[0]
    assert flops(model, images_of(2, 3, 32, 32)) == (forward, forward)
    model.get_submodule("head").requires_grad_(True)
    assert flops(model, images_of(2, 3, 32, 32)) == (forward, forward + 2 * 48 * 5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_flops_are_those_of_any_precision_and_of_frozen_weights_in_bf16(precision: str) -> None:
    model = vit()
    model.requires_grad_(False).get_submodule("head").requires_grad_(True)
    given = images_of(2, 3, 32, 32)
    counted = flops(model, given)
    assert flops(model, given, precision=precision) == counted
    round_frozen(model)
    assert flops(model, given, precision="bf16") == counted


class Restless(nn.Module):
    """Uses chance, running statistics and modes: everything a probe could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.drop(self.norm(self.conv(x))).mean(dim=(2, 3))
        return nn.functional.linear(pooled, self.head.weight, self.head.bias)


@pytest.mark.parametrize("probe", ["memory", "flops"])
def test_a_probe_leaves_no_trace(probe: str) -> None:
    model = Restless()
    model.train()
    model.norm.eval()
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    if probe == "memory":
        images = {"image": torch.randn(4, 3, 8, 8), "label": torch.zeros(4, dtype=torch.int64)}
        generator = torch.get_rng_state()
        training_memory(model, classification_loss(), images, OptimSpec())
    else:
        flops(model, images_of(4, 3, 8, 8))
    assert torch.equal(generator, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    grads = {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert list(grads) == ["head.weight"]
    assert bool((grads["head.weight"] == 7.0).all())


def test_peak_memory_sees_an_allocation_that_is_gone_again() -> None:
    # A process of its own: where the mark cannot be reset, what other tests allocated would hide this.
    code = """if True:
        import torch
        from peftbench.train.measure import PeakMemory
        peak = PeakMemory("cpu")
        before = peak.bytes()
        block = torch.ones(2**26)
        del block
        high = peak.bytes()
        print(peak.kind, high - before, high - PeakMemory("cpu").bytes())
    """
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    kind, seen, fallen = shown.split()
    assert int(seen) > 2**27  # of the 2**28 bytes
    assert int(fallen) > 2**27 if kind == "process_rss" else int(fallen) == 0


def test_peak_memory_says_when_the_system_cannot_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_reset_rss_peak", lambda: False)
    peak = PeakMemory("cpu")
    assert peak.kind == "process_rss_since_start"
    assert peak.bytes() > 2**20


def test_flops_of_a_module_called_on_a_parameter() -> None:
    class Prompted(nn.Module):
        """A learnable token goes through a submodule, as prompts go through dropout."""

        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 12))
            self.dropout = nn.Dropout(0.1)
            self.layer = nn.Linear(12, 3, bias=False).requires_grad_(False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(images.flatten(1) + self.dropout(self.token))
            return out

    model = Prompted()
    forward, train = flops(model, images_of(2, 3, 2, 2))
    assert forward == 2 * 12 * 3
    assert train == 2 * forward  # the frozen layer only passes the gradient on to its input
    assert model.token.grad is None


def test_stopwatch_adds_up_spans_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.5, 10.0, 10.25, 20.0, 22.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch("cpu")
    for name in ("train", "eval", "train"):
        with watch.measure(name):
            pass
    assert watch.seconds == {"train": 3.5, "eval": 0.25}


def test_stopwatch_books_the_time_to_make_items(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 7.0, 9.0, 9.5])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch("cpu")
    assert list(watch.timed("data", "ab")) == ["a", "b"]
    assert watch.seconds == {"data": 1.0 + 2.0 + 0.5}


def test_of_several_gpus_the_one_that_works_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    watch = Stopwatch("cuda:1")
    with watch.measure("train"), watch.measure("data", synchronize=False):
        pass
    assert waited == [torch.device("cuda:1")] * 2


def test_on_a_gpu_the_network_of_the_cell_before_is_let_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = nn.Linear(2, 2)
    before.itself = [before]  # type: ignore[assignment]  # a circle, as methods have them whose parts know the network
    tensor = weakref.ref(before.weight)
    there: list[bool] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: there.append(tensor() is not None))
    gc.disable()
    try:
        del before
        assert tensor() is not None
        PeakMemory("cuda")
    finally:
        gc.enable()
    assert there == [False]
