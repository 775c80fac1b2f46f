"""What a method may look at: the training images as they are or in two views, a fit and an accuracy apart from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from peftbench.cells.evidence import SEARCH_SPLITS, CellEvidence, RandomSplit, random_evidence
from peftbench.config.protocol import VALIDATES
from peftbench.contracts.backbones import make
from peftbench.tasks.promptable import Region


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def evidence(asked: list[str]) -> Iterator[CellEvidence]:
    """Evidence that notes which splits it was asked for; labels are 0, 1, 2, 3, 0, 1, ..."""
    split = RandomSplit.draw(10, 4, 32)
    base = random_evidence(make("vit_cls"))
    yield dataclasses.replace(base, load=lambda name: asked.append(name) or split, train_split="train800val200")


def test_images_come_once_in_order_and_normalised(evidence: CellEvidence, asked: list[str]) -> None:
    batches = list(evidence.images(4))
    assert [len(batch["label"]) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    pixels = RandomSplit.draw(10, 4, 32).inputs["image"][4].numpy().astype(np.float32) / 255
    assert np.allclose(batches[1]["image"][0].permute(1, 2, 0).numpy(), (pixels - 0.5) / 0.5, atol=1e-6)
    assert asked == ["train800val200"]


def test_views_are_two_draws_of_the_same_images(evidence: CellEvidence) -> None:
    pairs = list(evidence.views(4))
    order = torch.cat([first["index"] for first, _ in pairs]).tolist()
    assert order == torch.cat([second["index"] for _, second in pairs]).tolist()
    assert sorted(order) == list(range(10)) != order
    assert all(not torch.equal(first["image"], second["image"]) for first, second in pairs)
    again = next(iter(evidence.views(4)))
    assert torch.equal(again[0]["image"], pairs[0][0]["image"]) and torch.equal(again[1]["image"], pairs[0][1]["image"])


def test_a_search_trains_on_one_part_and_compares_on_the_other(evidence: CellEvidence, asked: list[str]) -> None:
    model = evidence.classifier(make("vit_cls"))
    before = model.head.weight.detach().clone()  # type: ignore[union-attr, operator]
    evidence.fit(model, evidence.loss, epochs=1, lr=1e-2)
    assert not torch.equal(model.head.weight, before)  # type: ignore[arg-type]
    assert asked == ["train800"]
    assert evidence.accuracy(model) in [count / 10 for count in range(11)]
    assert asked == ["train800", "val200"]


def test_a_fit_without_a_rate_takes_the_cells_own(evidence: CellEvidence) -> None:
    assert evidence.epochs == evidence.train.epochs
    heads = {}
    for lr in (None, evidence.optim.lr, 2 * evidence.optim.lr):
        model = evidence.classifier(make("vit_cls"))
        evidence.fit(model, evidence.loss, 1, lr)
        heads[lr] = model.head.weight.detach().clone()  # type: ignore[union-attr, operator]
    assert torch.equal(heads[None], heads[evidence.optim.lr])
    assert not torch.equal(heads[None], heads[2 * evidence.optim.lr])


def test_every_protocol_has_images_to_search_on() -> None:
    assert SEARCH_SPLITS.keys() == VALIDATES.keys()
    assert all(val in VALIDATES[train] for train, val in SEARCH_SPLITS.values())
    assert all(SEARCH_SPLITS[split][0] == split for split, vals in VALIDATES.items() if vals)


def test_a_short_search_fits_a_recipe_with_a_long_warm_up(evidence: CellEvidence) -> None:
    long = dataclasses.replace(evidence.optim, warmup_epochs=10.0, min_lr=1e-4, lr=1e-3)
    dataclasses.replace(evidence, optim=long).fit(evidence.classifier(make("vit_cls")), evidence.loss, 1, 1e-5)


def test_a_search_trains_a_head_that_holds_frozen_tensors() -> None:
    backbone = make("vit_cls")
    evidence = random_evidence(backbone, task=Region())
    model = evidence.classifier(backbone)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    evidence.fit(model, evidence.loss, epochs=1, lr=1e-2)
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("head.mask_decoder.") for name in moved)
    assert not any(name.startswith("head.prompt_encoder.") for name in moved)
