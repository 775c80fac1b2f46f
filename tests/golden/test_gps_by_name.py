"""GPS with what its released code trains because of a name: whole layer scales and tables of relative positions."""

from __future__ import annotations

import pytest
import torch

from peftbench.contracts import test_methods
from peftbench.contracts.backbones import findings, images, installed, make
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, install

# by hand: 2 scales of 48 in 3 blocks; BEiT's 52 rows of 3 heads in 3 blocks beside them; Swin's 49 rows of 2, 2 and 4
# heads, and of 4 x 4 windows 7 x 7 rows; one scale a block of 8, 16, 24 and 32
ADDED = {
    "vit_layerscale": 2 * 48 * 3,
    "beit": 2 * 48 * 3 + 52 * 3 * 3,
    "swin": 49 * (2 + 2 + 4),
    "convnext": 8 + 16 + 24 + 32,
}


def released(name: str) -> bool:
    """The rule of the released code for what trains as a whole, from the name that timm gives a tensor."""
    return "norm" not in name and any(word in name for word in ("head", "bias", "gamma"))


@pytest.mark.parametrize("backbone", ADDED)
def test_what_trains_whole_is_what_the_released_names_say(backbone: str) -> None:
    method, other = (METHODS.get("gps")(batch_size=16, by_name=flag) for flag in (True, False))
    built, plain = make(backbone), make(backbone)
    bare = [name for name, _ in built.named_parameters()]
    install(method, built, 0, findings(method, backbone))
    install(other, plain, 0, findings(other, backbone))
    whole = {name.replace(".base.", ".") for name, _ in built.trainable if not name.endswith("_values")}
    # a stem's norm has another name in the released ConvNeXt, and so have the norms of its merging steps
    norms = {"net.stem.1.bias"} | {f"net.stages.{stage}.downsample.0.bias" for stage in range(4)}
    assert whole == {name for name in bare if released(name)} - norms
    counts = [sum(tensor.numel() for _, tensor in model.trainable) for model in (built, plain)]
    assert counts[0] - counts[1] == ADDED[backbone]
    assert other.expected_params(plain.shape) == counts[1] and method.expected_params(built.shape) is None


@pytest.mark.parametrize("backbone", ["beit", "swin", "convnext"])
def test_gradients_reach_all_of_it_but_what_is_declared(backbone: str) -> None:
    method = METHODS.get("gps")(batch_size=16, by_name=True)
    test_methods.test_entries_without_gradient_are_the_declared_ones(method, installed(method, backbone))


@pytest.mark.parametrize("backbone", ["vit_layerscale", "swin"])
def test_the_same_entries_are_chosen_and_the_rest_folds(backbone: str) -> None:
    method, other = (METHODS.get("gps")(batch_size=16, by_name=flag) for flag in (True, False))
    chosen, before = findings(method, backbone), findings(other, backbone)
    assert chosen is not None and before is not None and chosen.keys() == before.keys()
    assert all(torch.equal(chosen[key], before[key]) for key in chosen)
    built = make(backbone)
    install(method, built, 0, chosen)
    with torch.no_grad():
        torch.testing.assert_close(built(images()), make(backbone)(images()), rtol=0, atol=0)
        for _, tensor in built.trainable:
            tensor.add_(0.05)
        expected = built(images())
        method.merge(built)
        torch.testing.assert_close(built(images()), expected, rtol=0, atol=1e-5)


def test_a_network_without_such_tensors_is_refused_ahead_of_looking() -> None:
    with pytest.raises(NotApplicable, match=r"no layer scales.*method\.by_name=false"):
        findings(METHODS.get("gps")(batch_size=16, by_name=True), "vit_cls")
