"""E2VPT's pruning: what the masks multiply, whose gradients choose, and how many prompts and pieces stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.cells.evidence import CellEvidence, random_evidence
from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install
from peftbench.methods.e2vpt import kept

SIZES = {"num_tokens": 5, "num_key_values": 2}


class Untrained(CellEvidence):
    """Evidence whose training changes nothing."""

    def fit(self, model: nn.Module, loss: Any, epochs: int, lr: float | None = None) -> None: ...


def _prompts(backbone: Any) -> list[Tensor]:
    return [site.module.get_parameter("tokens") for site in backbone.sites("block")]


def test_the_smallest_are_left_out_with_their_sign_and_some_stay() -> None:
    scores = torch.tensor([0.3, -2.0, 0.1, 0.1, 5.0])
    assert kept(scores, 2, 1).tolist() == [1, 0, 0, 1, 1]
    assert kept(scores, 5, 1).tolist() == [0, 0, 0, 0, 1]
    assert kept(torch.stack([scores, -scores]), 3, 4).tolist() == [[1, 0, 1, 1, 1], [1, 1, 1, 1, 0]]


def test_masks_multiply_the_same_prompts_and_every_sixteenth_channel_in_all_blocks() -> None:
    pieces = torch.ones(5, 16, dtype=torch.uint8)
    pieces[2, 3] = pieces[4, 15] = 0
    findings = {"tokens": torch.tensor([1, 0, 1, 1, 1], dtype=torch.uint8), "pieces": pieces}
    method, whole = METHODS.get("e2vpt")(token_share=0.2, piece_share=0.1, **SIZES), METHODS.get("e2vpt")(**SIZES)
    pruned, plain = make("vit_cls"), make("vit_cls")
    install(method, pruned, findings=findings)
    install(whole, plain)
    with torch.no_grad():
        for own, other in zip(_prompts(pruned), _prompts(plain), strict=True):
            assert torch.equal(own, other), "all starts as without masks"
            other[0, 1] = 0
            other[0, 2, 3::16] = 0
            other[0, 4, 15::16] = 0
    assert torch.equal(pruned.eval()(images()), plain.eval()(images()))
    pruned(images()).square().sum().backward()
    inert = dict(method.inert(pruned))
    for name, tensor in pruned.trainable:
        if name.endswith(".tokens") and "attn" not in name:
            assert tensor.grad is not None and torch.equal(inert[name], tensor.grad == 0)


def test_a_mask_is_as_important_as_the_loss_changes_with_it_after_the_first_training() -> None:
    backbone = make("vit_cls")
    evidence = Untrained(**vars(random_evidence(backbone)))
    method = METHODS.get("e2vpt")(token_share=0.5, piece_share=0.25, **SIZES)
    torch.manual_seed(4)
    found = method.observe(evidence)
    torch.manual_seed(4)
    copied = copy.deepcopy(backbone)
    METHODS.get("e2vpt")(**SIZES).attach(copied)
    model, prompts = evidence.classifier(copied).eval(), _prompts(copied)
    slopes = torch.zeros(5, 48)
    for batch in evidence.images(32):
        for tokens, slope in zip(prompts, torch.autograd.grad(evidence.loss(model, batch), prompts), strict=True):
            slopes += (tokens * slope)[0].detach()
    torch.testing.assert_close(found["importance"], slopes.sum(1), rtol=1e-4, atol=1e-7)
    assert set(slopes.sum(1).topk(2, largest=False).indices.tolist()) == set(
        (found["tokens"] == 0).nonzero()[:, 0].tolist()
    )
    for own, slope in zip(found["pieces"], slopes.unflatten(1, (-1, 16)).sum(1), strict=True):
        assert set(slope.topk(4, largest=False).indices.tolist()) == set((own == 0).nonzero()[:, 0].tolist())
    assert method.summary(found) == {"prompts": 3, "pieces_of_each": 12}


def test_masks_train_with_the_prompts_ahead_of_the_choice_and_the_backbone_stays() -> None:
    backbone = make("vit_cls")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    trained: dict[str, Tensor] = {}

    class Watched(CellEvidence):
        def fit(self, model: nn.Module, loss: Any, epochs: int, lr: float | None = None) -> None:
            super().fit(model, loss, 1, 0.1)
            trained.update({name: tensor.detach() for name, tensor in model.named_parameters() if "masks" in name})

    METHODS.get("e2vpt")(token_share=0.5, **SIZES).observe(Watched(**vars(random_evidence(backbone))))
    assert {name.rpartition(".")[2] for name in trained} == {"tokens", "pieces"}
    assert all((tensor != 1).all() for tensor in trained.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("options", [{"token_share": 0.4}, {"piece_share": 0.5}])
def test_pruning_looks_at_images_and_counts_all_prompts(options: dict[str, float]) -> None:
    method, backbone = METHODS.get("e2vpt")(**SIZES, **options), make("vit_cls")
    assert method.looks_first and not METHODS.get("e2vpt")().looks_first
    findings = method.observe(Untrained(**vars(random_evidence(backbone))))
    install(method, backbone, findings=findings)
    assert sum(tensor.numel() for _, tensor in backbone.trainable) == 3 * (5 + 2) * 48
