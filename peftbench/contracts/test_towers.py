"""Methods of one network attach to either tower of a pair, or say why not; on both the counts add up."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from peftbench.backbones.pair import both_shapes
from peftbench.contracts.backbones import PAIR, make, samples
from peftbench.contracts.test_methods import fitting
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
