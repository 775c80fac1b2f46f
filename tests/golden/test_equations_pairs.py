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
from peftbench.foundation.errors import ConfigError
from peftbench.methods.base import METHODS, install
from peftbench.train.average import EpochAverage, epoch_weights
from peftbench.train.optim import Schedule, build_optimizer, param_groups
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
    # of 1,213,184 on ViT-B/32, which differs in nothing that is trained, 102 x 768 are the objective's
    ("dpt", {}, 1_213_184 - 102 * 768),
    # of the published 1,578,752 a layer without the cross-modal exit (393,984) and its norm (1,536): on equal widths
    ("uniadapter", {}, 12 * (1_536 + 768 * 512 + 512 + 513 * (768 + 512))),
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


def test_the_constant_warm_up_is_one_rate_for_all_that_trains() -> None:
    # Dassl's ConstantWarmupScheduler returns its rate for every group, whatever the rate that they warm up to
    spec = OptimSpec(name="sgd", lr=0.01, warmup_epochs=1, warmup_lr=1e-5, min_lr=0.0, schedule="epochs")
    pair = moved("dpt")
    optimizer = build_optimizer(param_groups(pair.trainable, [], spec, METHODS.get("dpt")().lr_scale), spec)
    schedule = Schedule(spec, epochs=4, steps_per_epoch=2)

    def rates(step: int) -> dict[str, float]:
        schedule.apply(optimizer, step)
        return {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}

    assert set(rates(1).values()) == {1e-5}
    behind = rates(2)
    assert behind.pop("classes.context") == pytest.approx(0.002)
    assert list(behind.values()) == pytest.approx([0.01] * len(behind))


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


def test_zeros_stand_ahead_of_the_words_that_start_a_context() -> None:
    """As ProGrad's release starts its sixteen vectors."""
    pair = moved("coop", words="a photo of a", zeros=3)
    context = pair.trainable[0][1].detach()
    words = pair.tokenizer.pieces("a photo of a")
    assert not context[:3].any() and torch.equal(context[3:], pair.text.net.token_embed.weight[words].detach())
    assert METHODS.get("coop")(words="a photo of a", zeros=3).expected_params(pair.shape) == 7 * 32
    with pytest.raises(ConfigError, match=r"method\.zeros stand ahead of method\.words; name some"):
        METHODS.get("coop")(zeros=3)


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


def test_uniadapter_shares_its_entrance_between_towers() -> None:
    pair = moved("uniadapter", bottleneck=6)
    assert isinstance(pair, Pair)
    with torch.no_grad():
        for _, tensor in pair.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    for tower, depth in ((pair.image, 1), (pair.text, 1)):
        block: Any = tower.sites("block")[depth].module
        plain, branch = block.base, dict(block.named_modules())
        up = next(module.up for module in branch.values() if hasattr(module, "up"))
        entrance: Any = pair.text.get_submodule(f"shared.entrance_{depth}")
        x = torch.randn(2, 5, tower.shape.width, generator=torch.Generator().manual_seed(1))
        behind = x + plain.attn(plain.norm1(x))
        width = x.shape[-1]
        seen = (behind - behind.mean(-1, keepdim=True)) / (behind.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        seen = seen * entrance.norm.weight[:width] + entrance.norm.bias[:width]
        hidden = (seen @ entrance.down.weight[:, :width].T + entrance.down.bias).relu()
        added = 0.1 * (hidden @ up.weight.T + up.bias)
        torch.testing.assert_close(block(x), behind + plain.mlp(plain.norm2(behind)) + added, rtol=1e-4, atol=1e-5)
    # what the text tower reads is known to change with the entrance
    assert any(name.startswith("text.shared.entrance_") for name, _ in pair.trainable)


def test_vl_adapter_stands_behind_both_halves_and_counts_as_published() -> None:
    with torch.device("meta"):
        shape = build_text(TEXTS["clip_768"]).shape
    method = METHODS.get("vl_adapter")(norms=False)
    # of 768 channels 96: 148,320 for each of two places in twelve layers
    assert method.expected_params(shape) == 24 * 148_320
    pair = bare()
    install(METHODS.get("vl_adapter")(towers=["text"], reduction=4), pair)
    wrapped: Any = pair.text.sites("mlp")[0].module
    adapter, plain = wrapped.module, wrapped.base
    x = torch.randn(2, 3, pair.text.shape.width, generator=torch.Generator().manual_seed(1))
    y = plain(x)
    hidden = torch.nn.functional.gelu(adapter.down(y), approximate="tanh")
    torch.testing.assert_close(wrapped(x), y + adapter.up(hidden))
    assert adapter.up.weight.std() > 0.01 and "text.net.norm.weight" in dict(pair.trainable)


def test_dpt_asks_the_image_for_the_classes_that_the_untouched_pair_finds() -> None:
    untouched, pair = bare().double(), bare().double()
    install(METHODS.get("dpt")(num_tokens=2, num_classes=3, context=2), pair)
    pair.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, tensor in pair.trainable:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    images, net = samples(pair).double(), untouched.image.net
    f0 = untouched.image_features(images)
    w0 = untouched.class_features(f0)
    chosen = untouched.match(f0, w0).topk(3, dim=1).indices
    w = pair.classes(pair, f0)  # type: ignore[misc]
    # patches and class token as they enter the first block
    x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images))))
    blocks: Any = [site.module for site in pair.image.sites("block")]
    for wrapped in blocks[:-1]:
        entering = torch.cat([x, wrapped.tokens.tokens.expand(len(x), -1, -1)], dim=1)
        x = wrapped.base(entering)[:, :-2]
    prompts = blocks[-1].prompts
    asked = w[chosen] @ prompts.to_query.weight.T + prompts.to_query.bias
    seen = torch.cat([x, prompts.tokens.expand(len(x), -1, -1)], dim=1)
    scores = (asked @ prompts.query.weight.T) @ (seen @ prompts.key.weight.T).transpose(1, 2) / 32**0.5
    found = (scores.softmax(-1) @ seen) @ prompts.value.weight.T
    placed = torch.cat([x, prompts.norm(found + asked)], dim=1)
    features = pair.image_projection(pair.image.readout(net.norm(blocks[-1].base(placed)[:, :-3])))
    blocks[-1].listens = True
    with torch.no_grad():
        torch.testing.assert_close(pair.train()(images), pair.match(features, w), rtol=1e-10, atol=1e-10)
    said = blocks[-1].take()
    assert torch.equal(said.chosen, chosen)
    torch.testing.assert_close(said.found, found, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(said.untouched, f0, rtol=1e-10, atol=1e-10)
    rate = METHODS.get("dpt")().lr_scale
    assert rate("backbone.classes.context") == 0.2 and rate("backbone.image.net.blocks.0.tokens.tokens") == 1
