from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.cells.last_block import places_of
from peftbench.contracts.backbones import images, installed
from peftbench.foundation.errors import ConfigError
from peftbench.interventions.noise import add_noise
from peftbench.methods.base import METHODS
from peftbench.train.blocks import Blocks, recomputed
from peftbench.train.leading import leading_alone
from peftbench.train.measure import training_memory
from peftbench.train.options import OptimSpec, TrainSpec
from peftbench.train.precision import round_frozen


def blocks_of(backbone: Any) -> list[nn.Module]:
    return [site.module for site in backbone.sites("block")]


@pytest.mark.parametrize("method", ["lora", "ssf", "adaptformer"])
def test_equal_blocks_share_what_was_compiled(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def count(graph: Any, inputs: list[Any]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    torch._dynamo.reset()
    backbone = installed(METHODS.get(method)(), "vit_cls").train()
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = backbone(images())
    blocks = Blocks(blocks_of(backbone), TrainSpec(compile=True))
    for _ in range(2):
        with blocks.in_training():
            torch.testing.assert_close(backbone(images()), expected)
    # the first block, whose input needs no gradient where those of the others do, is left as it is
    assert len(graphs) == 1
    before = len(graphs)
    with blocks.in_training():  # the short last batch of an epoch
        short = backbone(images()[:1])
    assert torch.equal(short, backbone(images()[:1]))
    with torch.no_grad():
        backbone.eval()(images())  # outside, blocks run as they are
    assert len(graphs) == before


def test_compiled_blocks_run_the_hooks_that_some_of_them_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of each block's own, as PACE has it, and a last block that runs for the class token alone."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    backbone = installed(METHODS.get("lora")(), "vit_cls").train()
    noisy, last = (backbone.sites("mlp.fc1")[layer].module for layer in (1, -1)), places_of(backbone)

    def passed(compiled: bool, alone: bool) -> Tensor:
        blocks = Blocks(blocks_of(backbone), TrainSpec(compile=compiled))
        torch.manual_seed(0)
        with leading_alone([site.module for site in last] if alone else [], 1), blocks.in_training():
            tokens: Tensor = backbone.net.forward_features(images())
        return tokens

    plain = passed(False, False)
    torch.testing.assert_close(passed(True, False), plain)
    for number, module in enumerate(noisy, 1):
        add_noise(module, float(number))
    for alone in (False, True, False):
        expected = passed(False, alone)
        assert not torch.allclose(expected, plain, atol=1e-2)
        torch.testing.assert_close(passed(True, alone), expected)


def test_recomputed_blocks_keep_their_inputs_and_the_largest_keeps_its_own_for_a_turn() -> None:
    width, length = 8, 5
    blocks = [nn.Sequential(nn.Linear(width, size), nn.Tanh(), nn.Linear(size, width)) for size in (16, 64)]
    model = nn.Sequential(*blocks)
    batch = {"image": torch.randn(length, width)}

    def loss_fn(model: Any, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = model(batch["image"] * 1.0).sum()
        return loss

    plain = training_memory(model, loss_fn, batch, OptimSpec())["saved_bytes"]
    again = training_memory(model, loss_fn, batch, OptimSpec(), recomputed_blocks=blocks)["saved_bytes"]
    # a block keeps its input for its first weight, and Tanh's output for Tanh and the second weight
    assert plain == 4 * length * (width + 16 + width + 64)
    assert again == 4 * length * (width + width + 64)
    assert "forward" not in vars(blocks[0])


def test_blocks_run_as_they_are_unless_asked() -> None:
    block = nn.Linear(3, 3)
    with Blocks([block], TrainSpec()).in_training():
        assert "forward" not in vars(block)
        assert block._compiled_call_impl is None
    with recomputed([block]):
        assert "forward" in vars(block)


def test_frozen_weights_in_bf16_change_no_bit_where_autocast_reads_them() -> None:
    def output(rounded: bool) -> tuple[Tensor, int]:
        backbone = installed(METHODS.get("adaptformer")(), "vit_layerscale").train()
        if rounded:
            round_frozen(backbone)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            features: Tensor = backbone(images())
        features.float().sum().backward()
        trained = [tensor for _, tensor in backbone.trainable]
        assert all(tensor.dtype == torch.float32 for tensor in trained)
        grads = torch.cat([tensor.grad.flatten() for tensor in trained if tensor.grad is not None])
        held = sum(p.numel() * p.element_size() for p in backbone.parameters() if not p.requires_grad)
        return torch.cat([features.float().detach().flatten(), grads]), held

    (plain, usual), (rounded, less) = output(False), output(True)
    assert torch.equal(plain, rounded)
    assert less < 0.55 * usual


def test_options_that_do_not_go_together_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"set train\.precision=bf16"):
        TrainSpec(frozen_bf16=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        TrainSpec(recompute=True, compile=True)
    assert "recompute" not in TrainSpec().identity()
    assert TrainSpec(recompute=True).identity()["recompute"] is True
