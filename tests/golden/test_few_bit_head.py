"""Bi-Head: a classifier's head of few bits, against plain tensor code and the size of the released files."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import peftbench
from peftbench.adapters.file import adapter_tensors
from peftbench.adapters.sharing import restored
from peftbench.contracts.backbones import images, make
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.interventions.head import plain_head
from peftbench.methods.base import METHODS, install
from peftbench.methods.binary import FewBitHead
from peftbench.tasks.model import Classifier, drop_ahead_of_head
from tests.golden.counting import Count
from tests.golden.test_equations_adapters import few_bits

BINARY = ("bi_adaptformer", "bi_lora")


def model_of(method: str, backbone: str = "vit_cls", classes: int = 5, **options: Any) -> Classifier:
    network, spec = make(backbone), METHODS.get(method)(**options)
    install(spec, network, 0)
    model = Classifier(network, classes, 0)
    model.head = spec.on_head(model.head)
    return model


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("method", BINARY)
def test_the_head_multiplies_by_codes_and_has_no_bias(method: str, bits: int) -> None:
    model, plain = model_of(method, head_bits=bits).eval(), model_of(method).eval()
    features = model.backbone(images())
    expected = features @ few_bits(plain.head.weight, bits).T
    torch.testing.assert_close(model(images()), expected, rtol=1e-5, atol=1e-6)
    assert len(model.head.acting().unique()) <= 2**bits  # type: ignore[operator]
    # it starts as every head does, and is saved under the same name
    assert torch.equal(model.head.weight, plain.head.weight) and model.head.bias is None
    assert list(model.head.state_dict()) == ["weight"]


def test_its_gradient_passes_the_snapping_and_not_what_it_is_standardised_by() -> None:
    """In float64, by the chain rule: of the loss by the code's place, then through (w - m) / (s + 1e-5), s and m."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 4, dtype=torch.float64)
    head = FewBitHead(linear, 1).double()
    features, target = torch.randn(9, 6, dtype=torch.float64), torch.randint(4, (9,))
    (found,) = torch.autograd.grad(F.cross_entropy(head(features), target), head.weight)
    w = linear.weight.detach()
    n, m, s = w.numel(), w.mean(), w.std()
    u = (w - m) / (s + 1e-5)
    code = head.codes[-1] * u.sign()
    acting = (code * s + m).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(features @ acting.T, target), acting)
    ds = (w - m) / ((n - 1) * s)
    direct = g * s / (s + 1e-5)
    of_s = (g * code).sum() - (g * s * u).sum() / (s + 1e-5)
    expected = direct - direct.mean() + of_s * ds + g.sum() / n
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "classes", "bottleneck", "num_bytes"),
    # of the released files for cifar, clevr_count and caltech101: one bit a weight, two numbers of float32 a matrix
    [
        ("bi_adaptformer", 100, 32, 83_528),
        ("bi_adaptformer", 100, 1, 12_104),
        ("bi_adaptformer", 8, 1, 3_272),
        ("bi_adaptformer", 102, 32, 83_720),
        ("bi_lora", 100, 32, 157_448),
    ],
)
def test_what_trains_takes_the_bytes_of_the_released_files(
    count_on_vit_b16: Count, method: str, classes: int, bottleneck: int, num_bytes: int
) -> None:
    head = FewBitHead(nn.Linear(768, classes), 1)
    num_weights = count_on_vit_b16(method, {"bottleneck": bottleneck, "head_bits": 1})
    num_weights += sum(tensor.numel() for tensor in head.parameters())
    num_matrices = 1 + 12 * (2 if method == "bi_adaptformer" else 4)
    assert num_weights / 8 + 8 * num_matrices == num_bytes


def test_copies_pickles_and_files_bring_it_back() -> None:
    model = model_of("bi_lora", head_bits=1)
    frozen = list(make("vit_cls").buffers())
    with torch.no_grad():
        model.head.weight += 0.1 * torch.randn(model.head.weight.shape)
    expected = model.eval()(images())
    # the bytes are our own, written a moment ago
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.eval()(images()), expected)
    tensors: dict[str, Tensor] = adapter_tensors(model, frozen)
    assert "head.weight" in tensors and not [name for name in tensors if "codes" in name or "bias" in name]
    facts = {
        "method": {"name": "bi_lora", "head_bits": 1},
        "objective": {"name": "none"},
        "class_names": list("abcde"),
        "seed": 3,
    }
    again = restored(make("vit_cls"), tensors, facts, path=None)  # type: ignore[arg-type]
    assert torch.equal(again(images()), expected)


def test_a_merged_model_has_a_plain_classifier_with_the_same_logits() -> None:
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)
    model = peftbench.attach("bi_lora", net, num_classes=3, head_bits=2).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    merged: Any = model.merge()
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)
    assert type(merged.head) is nn.Linear and not merged.head.bias.any()
    head = nn.Linear(3, 2)
    assert all(torch.equal(a, b) for a, b in zip(plain_head(head).parameters(), head.parameters(), strict=True))


class OwnHead(nn.Linear):
    """A classifier of somebody's own."""


def test_what_has_no_plain_linear_head_is_refused_ahead_of_any_change() -> None:
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)
    with pytest.raises(NotApplicable, match=r"linear head of a classifier.*method\.head_bits"):
        peftbench.attach("bi_adaptformer", net, head_bits=1)
    assert peftbench.attach("bi_adaptformer", net).num_trainable > 0
    own = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)
    own.head = OwnHead(own.embed_dim, 4)
    with pytest.raises(NotApplicable, match="here that is OwnHead"):
        peftbench.attach("bi_lora", own, head_bits=1)
    assert isinstance(own.head, OwnHead) and own.num_classes == 4
    assert peftbench.attach("bi_lora", own).num_trainable > 0
    with pytest.raises(ConfigError, match=r"train\.head_dropout"):
        drop_ahead_of_head(model_of("bi_lora", head_bits=1), 0.5, "classification")
