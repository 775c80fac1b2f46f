"""Methods of one network attach to either tower of a pair, or say why not; on both the counts add up."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from peftbench.backbones.pair import both_shapes
from peftbench.backbones.t5 import T5Tower
from peftbench.backbones.tokenizers import Pieces
from peftbench.backbones.vl_t5 import VLT5
from peftbench.contracts.backbones import PAIR, make, samples
from peftbench.contracts.test_methods import check_gradients, fitting, nudge
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.methods.base import METHODS, Method, install

OTHERS = ("of_pairs", "mixes_time", "by_task")
OF_ONE = [name for name in METHODS.names() if not any(getattr(METHODS.get(name), fact) for fact in OTHERS)]


@pytest.mark.parametrize("name", [name for name in OF_ONE if not METHODS.get(name).observes])
def test_on_the_text_tower_alone_nothing_of_images_trains(name: str) -> None:
    method = on_towers(name, "text")
    pair = make(PAIR)
    bare = pair(samples(pair)).detach()
    try:
        install(method, pair)
    except NotApplicable as error:
        assert len(str(error).split()) >= 4
        pytest.skip(str(error))
    assert all(tensor.startswith("text.") for tensor, _ in pair.trainable)
    logits = pair.eval()(samples(pair))
    if method.identity_at_init:
        torch.testing.assert_close(logits, bare, rtol=1e-4, atol=1e-5)
    if pair.trainable:
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        assert any(tensor.grad is not None and tensor.grad.abs().max() > 0 for _, tensor in pair.trainable)


class OfT5:
    """A T5 of three blocks a half under an image tower, with random weights, and what it gives for fixed inputs."""

    def __init__(self) -> None:
        transformers = pytest.importorskip("transformers")
        sizes = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 3, "num_heads": 4, "vocab_size": 8}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            net = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, dropout_rate=0.0))
        self.both = VLT5(make("vit_cls"), T5Tower(net, Pieces(None))).eval()

    def logits(self) -> Tensor:
        seen = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(0))
        asked, answers = torch.tensor([[3, 5, 1], [4, 1, 0]]), torch.tensor([[6, 1], [7, 1]])
        tower = self.both.eval().text
        return tower.likelihoods(*tower.read(asked, seen), answers)


@pytest.mark.parametrize("name", [name for name in OF_ONE if not METHODS.get(name).observes])
def test_on_a_t5_it_starts_trains_and_folds_as_elsewhere_or_says_why_not(name: str) -> None:
    method, t5 = on_towers(name, "text"), OfT5()
    bare = t5.logits().detach()
    try:
        install(method, t5.both)
    except NotApplicable as error:
        assert len(str(error).split()) >= 4
        pytest.skip(str(error))
    assert all(tensor.startswith("text.") for tensor, _ in t5.both.trainable)
    if method.identity_at_init:
        torch.testing.assert_close(t5.logits(), bare, rtol=1e-4, atol=1e-5)
    nudge(t5.both)
    if t5.both.trainable:
        logits = t5.logits()
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        check_gradients(t5.both.text, method.inert(t5.both.text))
    if method.mergeable:
        expected = t5.logits().detach()
        try:
            method.merge(t5.both.text)
        except NotApplicable as error:
            # a T5's norms have no shift
            assert "does not fold into T5LayerNorm" in str(error)
        else:
            torch.testing.assert_close(t5.logits(), expected, rtol=1e-3, atol=1e-4)


def on_towers(name: str, *towers: str) -> Method:
    return dataclasses.replace(fitting(name), towers=list(towers))


def test_in_whichever_order_towers_are_named_it_is_one_cell() -> None:
    first, second = on_towers("lora", "image", "text"), on_towers("lora", "text", "image")
    assert first == second and first.identity() == second.identity() and first.label == second.label


def test_on_both_towers_the_counts_add_up() -> None:
    pair = make(PAIR)
    install(on_towers("lora", "image", "text"), pair)
    image, text = both_shapes(pair.shape)
    lora = fitting("lora")
    both = sum(tensor.numel() for _, tensor in pair.trainable)
    assert both == (lora.expected_params(image) or 0) + (lora.expected_params(text) or 0)
    assert {name.partition(".")[0] for name, _ in pair.trainable} == {"image", "text"}


def test_towers_that_are_not_there_are_refused() -> None:
    with pytest.raises(NotApplicable, match="reads images alone"):
        install(on_towers("lora", "text"), make("vit_cls"))
    with pytest.raises(ConfigError, match="each once"):
        install(on_towers("lora", "image", "image"), make(PAIR))
    with pytest.raises(ConfigError, match="leave out"):
        install(on_towers("zero_shot", "text"), make(PAIR))
    with pytest.raises(NotApplicable, match="width of features"):
        install(fitting("vqt"), make(PAIR))
    of_images = dataclasses.replace(on_towers("lora", "text"), init="eva")
    with pytest.raises(NotApplicable, match="looks at images and attaches to the image tower alone"):
        install(of_images, make(PAIR), findings={})
