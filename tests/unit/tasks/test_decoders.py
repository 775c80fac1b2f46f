"""Decoders: their counts by formula and by the published networks, and what they make of each family's maps."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from peftbench.backbones.maps import Taps, tapped_blocks, taps_of
from peftbench.contracts.backbones import BUILDERS, TWELVE_BLOCKS, images, installed, make
from peftbench.contracts.test_methods import fitting
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.seeding import seeded
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes
from peftbench.tasks.decoders import (
    DECODERS,
    FCNDecoder,
    HRNetDecoder,
    LinearDecoder,
    PUPDecoder,
    UPerNetDecoder,
    pooled_to,
)
from peftbench.tasks.dense import MapModel
from peftbench.tasks.promptable import Promptable
from peftbench.tasks.pyramid import FlatPyramid
from peftbench.tasks.segmentation import Segmentation
from peftbench.tasks.several import Several
from peftbench.train.options import TrainSpec

CLASSES = Classes(("sky", "road", "car", "absent"))


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("family", ["vit_twelve", "swin", "convnext"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_scores_have_the_size_of_the_image_and_the_decoder_trains(family: str, decoder: str) -> None:
    backbone = (BUILDERS | TWELVE_BLOCKS)[family]()
    install(METHODS.get("linear")(), backbone)
    channels = None if decoder == "linear" else 8
    model = Segmentation(decoder=decoder, channels=channels).model(backbone, CLASSES, 0)
    assert isinstance(model, MapModel) and model.added == []
    scores = model.train()(images(2))
    assert scores.shape == (2, 4, 32, 32)
    (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
    for name, parameter in model.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("method", ["vit_adapter", "hst"])
def test_what_reads_one_map_is_refused_where_a_method_makes_a_pyramid(method: str) -> None:
    built = installed(fitting(method), "vit_cls")
    made = taps_of(built, 4)
    with pytest.raises(NotApplicable, match=f"a pyramid of {len(made.widths)} maps.*choose another method or decoder"):
        DECODERS["pup"](made, 3, 8)
    with pytest.raises(NotApplicable, match="the one behind the last block alone"):
        Promptable(width=64).model(built, CLASSES, 0)
    assert DECODERS["linear"](made, 3, None)


def test_of_several_maps_the_last_one() -> None:
    taps = taps_of(make("swin"), 1)
    assert len(taps.widths) > 1 and (taps.last.layers, taps.last.widths) == (taps.layers[-1:], taps.widths[-1:])


def test_published_counts() -> None:
    """mmsegmentation's heads (150 classes) on Swin-B, Swin-L and ViT-B; MTLoRA's on Swin-T; the sheet's small ones."""
    assert size(UPerNetDecoder([128, 256, 512, 1024], 150)) == 33_315_990
    assert size(UPerNetDecoder([192, 384, 768, 1536], 150)) == 36_953_238
    assert size(UPerNetDecoder([768] * 4, 150)) == 32_332_950
    assert size(UPerNetDecoder([64] * 4, 11, 32)) == 135_275
    assert [size(UPerNetDecoder([width] * 4, 11, 64)) for width in (64, 192)] == [473_291, 604_363]
    assert [size(FCNDecoder([width], 150)) for width in (512, 768)] == [1_218_710, 1_808_534]
    assert [size(LinearDecoder([w], k)) for w, k in ((384, 11), (192, 11), (768, 21))] == [5_003, 2_507, 17_685]
    assert size(LinearDecoder([128] * 3, 5)) == 2_693
    for outputs, count in ((21, 317_541), (7, 302_407), (1, 295_921), (3, 298_083)):
        decoder = HRNetDecoder([192, 384, 768, 768], outputs)
        assert size(decoder.head) == count and size(decoder.reduce) == 183_168


@pytest.mark.parametrize(("width", "channels", "outputs"), [(48, 16, 5), (768, 256, 150)])
def test_counts_by_formula(width: int, channels: int, outputs: int) -> None:
    d, c, k = width, channels, outputs
    assert size(PUPDecoder(d, k, c)) == 9 * d * c + 2 * c + 3 * (9 * c**2 + 2 * c) + c * k + k
    assert size(FlatPyramid([d] * 4)) == 3 * (4 * d**2 + d) + 2 * d
    assert size(FCNDecoder([d] * 2, k, c)) == 18 * d * c + 2 * c + (c + 1) * k
    built = DECODERS["upernet"](Taps((0, 1, 2, 3), (d,) * 4, flat=True), k, c)
    assert size(built) == size(FlatPyramid([d] * 4)) + size(UPerNetDecoder([d] * 4, k, c))


@pytest.mark.parametrize("name", ["fcn", "pup", "upernet"])
def test_they_start_as_those_of_mmsegmentation(name: str) -> None:
    """Convolutions with variance 2 / (outputs x area), the classifier with deviation 0.01, batch norms at 1 and 0."""
    # bounds of a draw: of one draw, whatever was drawn before in this process
    with seeded(0, "decoder"):
        decoder = DECODERS[name](Taps((0, 1, 2, 3), (96,) * 4, flat=False), 150, 128)
    inside = [module for module in decoder.modules() if isinstance(module, nn.Conv2d)]
    classifier = next(module for module in inside if module.bias is not None)
    assert classifier.out_channels == 150 and inside.count(classifier) == 1
    for convolution in inside:
        outputs, _, *area = convolution.weight.shape
        deviation = 0.01 if convolution is classifier else (2 / (outputs * math.prod(area))) ** 0.5
        assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.03)
        assert abs(convolution.weight.mean().item()) < 0.03 * deviation
        # normal, not uniform: a uniform law has a fourth moment of 1.8
        assert ((convolution.weight / deviation) ** 4).mean().item() == pytest.approx(3, rel=0.1)
    assert classifier.bias is not None and not classifier.bias.any()
    for norm in (module for module in decoder.modules() if isinstance(module, nn.BatchNorm2d)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_a_decoder_whose_start_changed_is_another_cell() -> None:
    assert [Segmentation(decoder=name).revision for name in DECODERS] == [1, 2, 2, 2, 1]
    assert Several(decoder="upernet").revision == 2 and Several().revision == 1


@pytest.mark.parametrize("family", ["vit_twelve", "swin"])
def test_an_auxiliary_head_trains_beside_the_decoder_and_is_silent_in_evaluation(family: str) -> None:
    backbone = (BUILDERS | TWELVE_BLOCKS)[family]()
    install(METHODS.get("linear")(), backbone)
    alone = Segmentation(decoder="upernet", channels=8)
    task, train = dataclasses.replace(alone, auxiliary=0.4), TrainSpec()
    model, plain = task.model(backbone, CLASSES, 0), alone.model(backbone, CLASSES, 0)
    width = taps_of(backbone, 4).widths[:3][-1]
    # one convolution with 256 channels on the third map, or on the last of fewer
    assert size(model.head) == size(plain.head) + 9 * width * 256 + 2 * 256 + 257 * 4
    pictures, truth = images(2), torch.arange(2 * 32 * 32).view(2, 32, 32) % 4
    scores, beside = model.train()(pictures)
    assert scores.shape == beside.shape == (2, 4, 32, 32)
    loss = task.loss((scores, beside), {"class_map": truth}, train)
    parts = [F.cross_entropy(each, truth) for each in (scores, beside)]
    torch.testing.assert_close(loss, parts[0] + 0.4 * parts[1])
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    # the decoder starts as without it, and says the same
    reset = task.model(backbone, CLASSES, 0)
    torch.testing.assert_close(reset.eval()(pictures), plain.eval()(pictures), rtol=0, atol=0)


def test_a_flat_pyramid_has_four_sizes() -> None:
    maps = FlatPyramid([8] * 4)([torch.randn(2, 8, 4, 4)] * 4)
    assert [m.shape[2] for m in maps] == [16, 8, 4, 2]
    with pytest.raises(ConfigError, match=r"set task\.num_maps=4"):
        FlatPyramid([8] * 3)


@pytest.mark.parametrize("size", [(7, 4), (1, 2), (12, 9)])
def test_pooling_is_torchs_adaptive_average(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    for bins in UPerNetDecoder.bins:
        torch.testing.assert_close(pooled_to(x, bins), F.adaptive_avg_pool2d(x, bins))


def test_pup_reads_the_last_map_and_doubles_four_times() -> None:
    last = torch.randn(2, 8, 2, 2)
    decoder = PUPDecoder(8, 5, 4).eval()
    scores = decoder([torch.randn(2, 8, 2, 2), last])
    assert scores.shape == (2, 5, 32, 32) and torch.equal(scores, decoder([last]))


def test_upernet_is_local_but_for_its_pooling() -> None:
    """A change in one corner of the finest map stays within two 3 x 3 convolutions of it."""
    decoder = UPerNetDecoder([4, 4], 3, 4).eval()
    # nothing below 0, where relu would hide a change
    for tensor in decoder.parameters():
        tensor.data.abs_()
    fine, coarse = torch.rand(1, 4, 16, 16), torch.rand(1, 4, 8, 8)
    other = fine.clone()
    other[..., 0, 0] += 1
    moved = (decoder([fine, coarse]) - decoder([other, coarse])).abs().amax(1)[0] > 0
    assert moved[:3, :3].any() and not moved[3:].any() and not moved[:, 3:].any()


def test_blocks_are_evenly_spaced_or_the_last_of_each_stage() -> None:
    shape = BUILDERS["vit_cls"]().shape
    assert tapped_blocks(shape, 3) == (0, 1, 2) == tapped_blocks(shape, 9)
    assert tapped_blocks(shape, 1) == (2,)
    assert tapped_blocks(TWELVE_BLOCKS["vit_twelve"]().shape, 4) == (2, 5, 8, 11)
    assert tapped_blocks(BUILDERS["swin"]().shape, 4) == (1, 2)


def test_pyramid_pooling_asks_for_two_images() -> None:
    """Behind the mean of a whole map one image gives its batch norm one value a channel."""
    decoder, maps = UPerNetDecoder((4, 4), 3, 8), [torch.randn(1, 4, side, side) for side in (8, 4)]
    with pytest.raises(ConfigError, match=r"task\.decoder=upernet has a batch norm .*train\.keep_last_batch=false"):
        decoder(maps)
    assert decoder.eval()(maps).shape == (1, 3, 8, 8)
