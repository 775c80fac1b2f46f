"""Methods of pairs against their equations, on the tiny pair of the contracts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from peftbench.backbones.build import from_timm
from peftbench.backbones.pair import Pair, PairShape
from peftbench.backbones.text import build_text
from peftbench.backbones.text_options import TEXTS
from peftbench.backbones.tokenizers import Words, micro_words, rows_of
from peftbench.contracts.backbones import PAIR, make, samples
from peftbench.methods.base import METHODS, install
from peftbench.train.average import EpochAverage, epoch_weights
from peftbench.train.optim import Schedule
from peftbench.train.options import OptimSpec


def bare() -> Pair:
    pair = make(PAIR)
    assert isinstance(pair, Pair)
    return pair


ORACLES = [
    ("coop", {}, 8_192),
    ("coop", {"words": "a photo of a"}, 2_048),
    ("coop", {"class_specific": True}, 819_200),
    ("cocoop", {}, 35_360),
    ("maple", {}, 3_555_072),
    ("maple", {"depth": 3}, 1_185_024),
    ("ivlp", {}, 46_080),
    ("ivlp", {"text_tokens": 2, "image_tokens": 2}, 23_040),
    ("zero_shot", {}, 0),
]


@pytest.mark.parametrize(("name", "options", "count"), ORACLES)
def test_counts_on_clip_b16_with_a_hundred_classes(name: str, options: dict[str, Any], count: int) -> None:
    assert METHODS.get(name)(**options).expected_params(clip_b16()) == count


@cache
def clip_b16() -> PairShape:
    with torch.device("meta"):
        image = from_timm(timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0))
        return replace(Pair(image, build_text(TEXTS["clip_512"]), Words([])).shape, num_classes=100)


def moved(name: str, **options: Any) -> Pair:
    pair = bare()
    install(METHODS.get(name)(**options), pair)
    return pair


def test_the_rates_of_coops_line_are_set_by_epochs() -> None:
    spec = OptimSpec(name="sgd", lr=0.0035, warmup_epochs=1, warmup_lr=1e-5, min_lr=0.0, schedule="epochs")
    schedule = Schedule(spec, epochs=5, steps_per_epoch=3)
    rates = [schedule.lr_at(3 * epoch + step) for epoch in range(5) for step in (0, 2)]
    expected = [1e-5, 0.0035, 0.003166, 0.002291, 0.001209]
    assert rates == pytest.approx([rate for rate in expected for _ in range(2)], abs=5e-7)


def test_promptsrcs_weights_of_epochs() -> None:
    weights = epoch_weights(15, 1, 20)
    assert [round(weights[epoch - 1], 4) for epoch in (15, 14, 16, 13, 12)] == [0.3989, 0.2420, 0.2420, 0.0540, 0.0044]
    assert sum(weights) == pytest.approx(1)
    tensor = torch.zeros(2)
    average = EpochAverage([tensor], [0.25, 0.75])
    for epoch in range(2):
        tensor += 4
        average.add(epoch)
    average.take()
    assert tensor.tolist() == [7, 7]


def test_coop_with_words_is_zero_shot_to_the_bit() -> None:
    plain, coop = bare(), moved("coop", words="a photo of a")
    with torch.no_grad():
        assert torch.equal(coop(samples(coop)), plain(samples(plain)))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_coop_puts_its_vectors_around_the_name(position: str, class_specific: bool) -> None:
    pair = moved("coop", num_tokens=3, position=position, class_specific=class_specific)
    learned: Any = pair.classes
    width, context = 32, learned.context.detach()
    assert context.shape == ((5, 3, width) if class_specific else (3, width))
    words, spec = pair.tokenizer, pair.text.spec
    features = []
    for place, name in enumerate(pair.class_names):
        v = list(context[place] if class_specific else context)
        name_words = [pair.text.net.token_embed.weight[i] for i in words.pieces(name.replace("_", " "))]
        order = {"end": v + name_words, "middle": v[:1] + name_words + v[1:], "front": name_words + v}[position]
        edge = {i: pair.text.net.token_embed.weight[i] for i in (spec.start, spec.end, words.pieces(".")[0])}
        tokens = torch.stack([edge[spec.start], *order, edge[words.pieces(".")[0]], edge[spec.end]]).unsqueeze(0)
        features.append(pair.text_projection(pair.text.net(tokens)[:, -1]))
    with torch.no_grad():
        expected = cosines(pair.image_features(samples(pair)), torch.cat(features))
        torch.testing.assert_close(pair(samples(pair)), scale_of(pair) * expected, rtol=1e-4, atol=1e-5)


def scale_of(pair: Pair) -> Tensor:
    match: Any = pair.match
    scale: Tensor = match.logit_scale.exp()
    return scale


def cosines(f: Tensor, w: Tensor) -> Tensor:
    return (f / f.norm(dim=1, keepdim=True)) @ (w / w.norm(dim=1, keepdim=True)).T


def test_coops_gradient_goes_through_the_text_tower_and_no_image_tensor_has_a_graph() -> None:
    pair = moved("coop", num_tokens=2)
    seen = []
    pair.image_projection.register_forward_hook(lambda _, __, output: seen.append(output))
    pair.text.net.blocks[0].register_forward_hook(lambda _, __, output: seen.append(output))
    pair(samples(pair)).sum().backward()
    assert [name for name, _ in pair.trainable] == ["classes.context"]
    assert not seen[0].requires_grad and seen[1].requires_grad
    assert pair.trainable[0][1].grad.abs().max() > 0


def test_cocoop_moves_the_context_by_the_image() -> None:
    pair = moved("cocoop")
    texts: Any = pair.classes
    f = pair.image_features(samples(pair))
    meta = texts.meta
    with torch.no_grad():
        expected = []
        for features in f:
            hidden = (meta[0].weight @ (features / features.norm()) + meta[0].bias).clamp(min=0)
            context = texts.context + (meta[2].weight @ hidden + meta[2].bias)
            w = pair.text_features(texts.embedded(pair, context), pair.text.ends(texts.ids))
            expected.append(scale_of(pair) * cosines(features.unsqueeze(0), w))
        torch.testing.assert_close(pair(samples(pair)), torch.cat(expected), rtol=1e-4, atol=1e-5)
        assert pair.class_features(f).shape == (4, 5, 64)


def test_maple_makes_the_tokens_of_images_of_those_of_texts() -> None:
    """The towers written out, depth 2 of 3 image and 2 text blocks: "a photo" is learned and "of a" stays."""
    pair = moved("maple", depth=2)
    with torch.no_grad():
        for _, tensor in pair.trainable:
            tensor.add_(0.1 * torch.randn(tensor.shape))
    learned = dict(pair.trainable)
    context, text, image = pair.classes.context, pair.text.net, pair.image.net
    deep = next(t for name, t in learned.items() if name.startswith("text.") and t.shape == (2, 32))
    maps = {name: t for name, t in learned.items() if "linear" in name}
    assert len(maps) == 4
    first, second = ([t for n, t in maps.items() if (".blocks.1." in n) == later] for later in (False, True))
    with torch.no_grad():
        tokens = image._pos_embed(image.patch_embed(samples(pair)))
        blocks = [getattr(block, "base", block) for block in image.blocks]
        x = torch.cat([tokens, (context @ first[0].T + first[1]).expand(4, -1, -1)], dim=1)
        x = blocks[0](x)
        x = torch.cat([x[:, :-2], (deep @ second[0].T + second[1]).expand(4, -1, -1)], dim=1)
        f = pair.image_projection(image.norm(blocks[2](blocks[1](x)))[:, 0])
        words, spec = micro_words(), pair.text.spec
        ids = rows_of(spec, [words.pieces(f"a photo of a {name.replace('_', ' ')}.") for name in pair.class_names])
        y = text.token_embed(ids)
        y[:, 1:3] = context
        blocks = [getattr(block, "base", block) for block in text.blocks]
        y = blocks[0](y + text.pos_embed, is_causal=True)
        y[:, 1:3] = deep
        y = text.norm(blocks[1](y, is_causal=True))
        w = pair.text_projection(y[torch.arange(5), ids.argmax(1)])
        torch.testing.assert_close(pair(samples(pair)), scale_of(pair) * cosines(f, w), rtol=1e-4, atol=1e-5)


def test_ivlp_with_random_image_tokens_keeps_the_words_at_the_start_of_the_text() -> None:
    plain, pair = bare(), moved("ivlp", depth=1)
    with torch.no_grad():
        f = pair.image_features(samples(pair))
        assert torch.equal(pair.class_features(f), plain.class_features(f)), "words and no deep tokens: zero-shot"
        assert not torch.allclose(f, plain.image_features(samples(plain)))
