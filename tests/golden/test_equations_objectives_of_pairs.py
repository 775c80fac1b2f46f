"""Objectives of pairs against their equations, on the tiny pair of the contracts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.pair import Pair
from peftbench.contracts.backbones import PAIR, images, make
from peftbench.data.templates import IMAGENET_60, IMAGENET_80
from peftbench.methods.base import METHODS
from peftbench.methods.base import install as install_method
from peftbench.objectives import base
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.halves import HalvesModel
from peftbench.tasks.model import TaskModel
from peftbench.tasks.text_classification import TextClassification
from peftbench.train.options import TrainSpec

BATCH = {"image": images(4), "label": torch.tensor([0, 3, 1, 4])}


def model_of(name: str, method: str, batch: dict[str, Tensor] = BATCH, **options: Any) -> tuple[TaskModel, Tensor, Any]:
    """A model whose trained tensors have moved, its loss, and its pair."""
    pair, spec = make(PAIR), OBJECTIVES.get(name)(**options)
    own = base.prepare(spec, pair, 5, 0)
    install_method(METHODS.get(method)(), pair)
    model = TextClassification().model(pair, None, 0).train()
    base.install(spec, model, own, 5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, tensor in model.added:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model, spec.loss_fn(model, TextClassification().loss_fn(TrainSpec()))(model, batch), pair


def untouched() -> Pair:
    pair = make(PAIR)
    assert isinstance(pair, Pair)
    return pair


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_kgcoop_holds_the_texts_near_those_of_the_template() -> None:
    _, loss, pair = model_of("kgcoop", "coop", weight=3.0)
    w = unit(pair.class_features(torch.zeros(1, 64)))
    w0 = unit(untouched().class_features(torch.zeros(1, 64)))
    expected = F.cross_entropy(pair(BATCH["image"]), BATCH["label"]) + 3 * (1 - (w * w0).sum(dim=1).mean())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_prograd_takes_out_of_each_gradient_what_goes_against_the_general_one() -> None:
    known = untouched()(BATCH["image"]).detach()
    turned = 0
    # what the untouched pair finds likeliest, and what it finds least likely
    for label in (known.argmax(1), known.argmin(1)):
        batch = {"image": BATCH["image"], "label": label}
        model, loss, pair = model_of("prograd", "ivlp", batch, temperature=2.0, share=0.7)
        tensors = [tensor for _, tensor in model.added]
        logits = pair(batch["image"])
        task = F.cross_entropy(logits, label)
        general = (F.softmax(known / 2, 1) * -F.log_softmax(logits / 2, 1)).sum(1).mean() * 4
        loss.backward()
        assert loss.item() == pytest.approx(task.item(), rel=1e-5)
        of_task = torch.autograd.grad(task, tensors, retain_graph=True)
        of_both = zip(of_task, torch.autograd.grad(general, tensors), tensors, strict=True)
        for d, g, tensor in of_both:
            u = g / g.norm()
            along = (d * u).sum()
            turned += int(along < 0)
            expected = d - 0.7 * along * u if along < 0 else d
            torch.testing.assert_close(tensor.grad, expected, rtol=1e-3, atol=1e-5)
    assert turned > 0, "no tensor needed turning"


def test_promptsrc_holds_features_and_logits_near_those_of_the_untouched_pair() -> None:
    _, loss, pair = model_of("promptsrc", "ivlp", text_weight=2.0, image_weight=3.0)
    bare = untouched()
    known = [t for t in IMAGENET_60 if set(t.replace(".", "").split()) <= WORDS]
    assert len(known) > 3
    bare.read_classes(bare.class_names, known)
    w0 = unit(bare.classes.each(bare).mean(dim=0))
    f0 = unit(bare.image_features(BATCH["image"]))
    f, logits = pair.image_features(BATCH["image"]), pair(BATCH["image"])
    w = pair.class_features(f)
    p0 = F.softmax(f0 @ w0.T * bare.match.logit_scale.exp(), dim=1)
    talk = (p0 * (p0.log() - F.log_softmax(logits, dim=1))).sum() / logits.numel()
    expected = F.cross_entropy(logits, BATCH["label"]) + talk
    expected = expected + 2 * (unit(w) - w0).abs().mean() + 3 * (unit(f) - f0).abs().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "method"), [("kgcoop", "coop"), ("prograd", "ivlp"), ("promptsrc", "ivlp")])
def test_of_base_to_new_the_names_of_new_classes_are_not_read(name: str, method: str) -> None:
    """The loss, and its gradients, are those of a pair that knows the base classes alone."""
    batch = {"image": BATCH["image"], "label": torch.tensor([0, 2, 1, 1])}

    def found(classes: int, base_classes: int) -> list[Tensor]:
        pair, spec = make(PAIR), OBJECTIVES.get(name)()
        assert isinstance(pair, Pair)
        pair.read_classes(pair.class_names[:classes], pair.templates)
        own = base.prepare(spec, pair, classes, 0)
        install_method(METHODS.get(method)(), pair)
        model = HalvesModel(pair, nn.Identity(), base_classes).train()
        base.install(spec, model, own, classes)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for _, tensor in model.added:
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        loss = spec.loss_fn(model, TextClassification().loss_fn(TrainSpec()))(model, batch)
        loss.backward()
        return [loss.detach(), *(tensor.grad for _, tensor in model.added if tensor.grad is not None)]

    for mine, expected in zip(found(5, 3), found(3, 3), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


WORDS = {"a", "the", "{}", "photo", "of", "one", "drawing", "dark", "large", "small", "in", "no"}


def test_sixty_of_clips_eighty_templates_are_promptsrcs() -> None:
    assert len(IMAGENET_60) == 60 and set(IMAGENET_60) < set(IMAGENET_80)
    assert "itap of the {}." in IMAGENET_60 and "itap of a {}." not in IMAGENET_60


@pytest.mark.parametrize("epoch", [29, 30])
def test_dpt_trains_each_tower_against_the_other_one_as_it_was_and_then_both(epoch: int) -> None:
    batch = {**BATCH, "epoch": torch.full((4,), epoch)}
    _, loss, pair = model_of("dpt", "dpt", batch)
    aware = pair.image.sites("block")[-1].module
    f, label = pair.image_features(BATCH["image"]), BATCH["label"]
    said, w, bare = aware.take(), pair.class_features(f), untouched()
    f0, w0 = bare.image_features(BATCH["image"]), bare.class_features(f)
    together = F.cross_entropy(pair.match(f, w), label)
    apart = F.cross_entropy(pair.match(f0, w), label) + F.cross_entropy(pair.match(f, w0), label) + 0.1 * together
    # of five classes all are chosen, each in a place of its own
    places = (said.chosen == label[:, None]).int().argmax(1)
    norm, says = aware.voice
    of_truth = F.cross_entropy(norm(said.found[torch.arange(4), places]) @ says.weight.T, label)
    expected = (apart if epoch < 30 else together) + 0.3 * of_truth
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
