"""Boxes as prompts: what is asked, what counts, and that the decoder is SAM's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import build_backbone, from_timm
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.sam_micro import NAME
from peftbench.contracts.backbones import images, installed, randomised
from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes
from peftbench.tasks.mask_decoder import HEADS, PromptedHead, Sizes
from peftbench.tasks.promptable import EncodedImages, Promptable, PromptableMeter, Prompts, Region
from peftbench.train.batches import Batches
from peftbench.train.evaluate import evaluate
from peftbench.train.options import TrainSpec

CLASSES = Classes(("ground", "ball", "box", "absent"))


def sam(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return from_timm(randomised(timm.create_model(NAME, num_classes=0)))


def test_boxes_span_the_pixels_of_a_class() -> None:
    truth = torch.zeros(2, 6, 8, dtype=torch.long)
    truth[0, 1:4, 2:7] = 1
    truth[0, 5, 0] = 2
    truth[1, 0, 0] = 255
    asked = Prompts.of(truth, 1, 3)
    assert asked.boxes[0].tolist() == [[2, 1, 6, 3], [0, 5, 0, 5], [0, 0, 7, 5]]
    assert asked.there.tolist() == [[True, True, False], [False, False, False]]
    assert asked.masks[0, 0].sum() == 15 and asked.known.sum() == 2 * 48 - 1
    # one class before the first asked for counts as background
    assert Prompts.of(truth, 0, 2).there.tolist() == [[True, True], [True, False]]


class Answers(nn.Module):
    """Given logits in place of a decoder's, and class scores."""

    def __init__(self, scores: Tensor | None = None) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, embedding: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        return embedding, self.scores


class Given(nn.Module):
    """Images in the place of which stand the logits [batch, classes, size, size]."""

    def __init__(self, scores: Tensor | None = None) -> None:
        super().__init__()
        self.head = Answers(scores)

    def forward(self, logits: Tensor) -> EncodedImages:
        return EncodedImages(logits, self.head, logits.shape[-1], logits.shape[1])  # type: ignore[arg-type]


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (5, 8, 8)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    truth[4] = 0
    return rng.standard_normal((5, 3, 8, 8)).astype(np.float32), truth


def test_numbers_of_masks_by_hand() -> None:
    logits, truth = drawn()
    batches = Batches({"image": logits}, {"class_map": truth}, batch_size=2)
    found = evaluate(Given(), batches, PromptableMeter(CLASSES.class_names[1:], 1)).metrics
    ious, losses = [], []
    for place, number in enumerate((1, 2, 3)):
        hits = either = 0
        for image in range(5):
            known, mask = truth[image] != 255, truth[image] == number
            if not mask.any():
                continue
            said = (logits[image, place] > 0) & known
            hits, either = hits + (said & mask).sum(), either + (said | mask).sum()
            chance = np.where(known, 1 / (1 + np.exp(-logits[image, place].astype(np.float64))), 0)
            dice = 1 - (2 * (chance * mask).sum() + 1e-5) / ((chance**2).sum() + mask.sum() + 1e-5)
            entropy = -np.log(np.where(mask, chance, 1 - chance))[known].mean()
            losses.append(dice + entropy)
        if either:
            ious.append(hits / either)
    assert found["miou"] == pytest.approx(np.mean(ious)) and len(ious) == 2
    assert found["dice"] == pytest.approx(np.mean([2 * iou / (1 + iou) for iou in ious]))
    assert found["boxes"] == len(losses) == 8 and found["n"] == 5
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    batch = {"image": torch.from_numpy(logits), "class_map": torch.from_numpy(truth).long()}
    assert Promptable().loss_fn(TrainSpec())(Given(), batch).item() == pytest.approx(np.mean(losses), rel=1e-5)
    unknown = batch | {"class_map": torch.full((5, 8, 8), 255)}
    assert Promptable().loss_fn(TrainSpec())(Given(), unknown).item() == 0


def test_region_accuracy_counts_boxes_that_are_there() -> None:
    logits, truth = drawn()
    scores = torch.zeros(5, 3, 3)
    scores[:, 0, 0] = scores[:, 1, 0] = 1
    batch = {"image": torch.from_numpy(logits), "class_map": torch.from_numpy(truth).long()}
    meter = Region().meter(CLASSES)
    meter.update(Given(scores)(batch["image"]), batch)
    found = meter.result().metrics
    # of the eight boxes of balls and boxes the four of balls are said to be what they are
    assert found["region_accuracy"] == 0.5
    masks = Promptable().loss_fn(TrainSpec())(Given(scores), batch)
    entropy = nn.functional.cross_entropy(scores[0, :2], torch.arange(2))
    assert Region().loss_fn(TrainSpec())(Given(scores), batch).item() == pytest.approx((masks + entropy).item())


def test_pictures_show_the_surest_mask_of_each_pixel_and_what_was_asked() -> None:
    logits = torch.full((1, 3, 4, 4), -1.0)
    logits[0, 0, :2], logits[0, 1, 1:3, 1:], logits[0, 2] = 1.0, 2.0, 9.0
    truth = torch.zeros(1, 4, 4, dtype=torch.long)
    truth[0, 0, 1:3], truth[0, 2, 3] = 1, 2
    batch, image = {"class_map": truth}, Given()(logits)
    # the third class is in no picture: nobody asked for its mask
    expected = [[1, 1, 1, 1], [1, 2, 2, 2], [0, 2, 2, 2], [0, 0, 0, 0]]
    assert Promptable().said_of(image, batch)["class_map"][0].tolist() == expected
    prompts = Promptable().prompts_of(image, batch)
    assert prompts.tolist() == [[[1, 0, 3, 1, 1, 0], [3, 2, 4, 3, 2, 0], [0] * 6]]
    scores = torch.zeros(1, 3, 3)
    scores[0, 0, 2] = scores[0, 1, 0] = 1
    region = Region().said_of(Given(scores)(logits), batch)["class_map"][0]
    assert region.tolist() == [[{0: 0, 1: 3, 2: 1}[value] for value in row] for row in expected]
    # without a background what no mask has is unknown
    none = Promptable(first_class=0).said_of(Given()(logits - 10), batch)["class_map"]
    assert none.unique().tolist() == [255]


def reference(state: dict[str, Tensor], image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """One image [width, h, w] and one box: the mask by the equations of SAM's appendix A, written out."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    def attend(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = linear(f"{name}.q_proj", q), linear(f"{name}.k_proj", k), linear(f"{name}.v_proj", v)
        wide = q.shape[1] // HEADS
        parts = []
        for head in range(HEADS):
            part = slice(head * wide, (head + 1) * wide)
            weights = (q[:, part] @ k[:, part].T / wide**0.5).softmax(dim=-1)
            parts.append(weights @ v[:, part])
        return linear(f"{name}.out_proj", torch.cat(parts, dim=1))

    def places(x: Tensor, y: Tensor) -> Tensor:
        angles = (
            2
            * torch.pi
            * ((2 * torch.stack([x, y], -1) - 1) @ state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"])
        )
        return torch.cat([angles.sin(), angles.cos()], -1)

    width, h, w = image.shape
    left, top, right, bottom = ((value + 0.5) / size for value in boxes.to(image.dtype))
    corners = places(torch.stack([left, right]), torch.stack([top, bottom]))
    kinds = [state[f"prompt_encoder.point_embeddings.{number}.weight"][0] for number in (2, 3)]
    d = "mask_decoder"
    tokens = torch.cat([state[f"{d}.iou_token.weight"], state[f"{d}.mask_tokens.weight"], corners + torch.stack(kinds)])
    rows, columns = (torch.arange(n, dtype=image.dtype) + 0.5 for n in (h, w))
    where = places((columns / w).repeat(h), (rows / h).repeat_interleave(w))
    keys = image.flatten(1).T + state["prompt_encoder.no_mask_embed.weight"]
    queries = tokens
    for number in (0, 1):
        t = f"{d}.transformer.layers.{number}"
        if number == 0:
            queries = attend(f"{t}.self_attn", queries, queries, queries)
        else:
            queries = queries + attend(f"{t}.self_attn", queries + tokens, queries + tokens, queries)
        queries = norm(f"{t}.norm1", queries)
        queries = norm(
            f"{t}.norm2", queries + attend(f"{t}.cross_attn_token_to_image", queries + tokens, keys + where, keys)
        )
        queries = norm(f"{t}.norm3", queries + linear(f"{t}.mlp.lin2", linear(f"{t}.mlp.lin1", queries).relu()))
        keys = norm(
            f"{t}.norm4", keys + attend(f"{t}.cross_attn_image_to_token", keys + where, queries + tokens, queries)
        )
    t = f"{d}.transformer"
    queries = norm(
        f"{t}.norm_final_attn",
        queries + attend(f"{t}.final_attn_token_to_image", queries + tokens, keys + where, keys),
    )
    vector = queries[1]
    for number in range(3):
        vector = linear(f"{d}.output_hypernetworks_mlps.0.layers.{number}", vector)
        vector = vector.relu() if number < 2 else vector
    enlarged = keys.T.reshape(1, width, h, w)
    up = f"{d}.output_upscaling"
    enlarged = nn.functional.conv_transpose2d(enlarged, state[f"{up}.0.weight"], state[f"{up}.0.bias"], stride=2)
    centred = enlarged - enlarged.mean(1, keepdim=True)
    enlarged = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    enlarged = enlarged * state[f"{up}.1.weight"][:, None, None] + state[f"{up}.1.bias"][:, None, None]
    enlarged = nn.functional.gelu(enlarged)
    enlarged = nn.functional.conv_transpose2d(enlarged, state[f"{up}.3.weight"], state[f"{up}.3.bias"], stride=2)
    return (vector[:, None, None] * nn.functional.gelu(enlarged)[0]).sum(dim=0)


def test_the_mask_decoder_is_the_equations_of_the_paper() -> None:
    head = randomised(PromptedHead(Sizes(64, 96, 2))).double()
    image = torch.randn(2, 64, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[[0, 1, 7, 9], [3, 3, 3, 3]], [[2, 0, 30, 31], [5, 6, 8, 9]]])
    masks, scores = head(image, boxes, 32)
    assert masks.shape == (2, 2, 16, 20) and scores is None
    for number in range(2):
        for place in range(2):
            expected = reference(head.state_dict(), image[number], boxes[number, place], 32)
            torch.testing.assert_close(masks[number, place], expected, rtol=1e-9, atol=1e-9)


def test_a_semantic_token_says_the_class_and_leaves_room_for_the_prompt() -> None:
    head = PromptedHead(Sizes(64, 96, 2), num_classes=3)
    masks, scores = head(torch.randn(2, 64, 4, 4), torch.zeros(2, 5, 4, dtype=torch.long), 32)
    assert masks.shape == (2, 5, 16, 16) and scores is not None and scores.shape == (2, 5, 3)
    scores.sum().backward()
    assert head.sem_token is not None and head.sem_token.weight.grad is not None and head.sem_token.weight.grad.any()
    assert not any(parameter.requires_grad for parameter in head.prompt_encoder.parameters())


def in_sams_layout(model: Any) -> dict[str, Tensor]:
    encoder = {
        f"image_encoder.{name.replace('.mlp.fc', '.mlp.lin')}": tensor.clone()
        for name, tensor in model.backbone.net.state_dict().items()
    }
    head = {name: tensor.clone() for name, tensor in model.head.state_dict().items() if "_" in name.split(".")[0]}
    # what a release has beside that
    return encoder | head | {"mask_decoder.iou_prediction_head.layers.0.weight": torch.ones(2, 2)}


def test_a_checkpoint_in_sams_layout_brings_its_mask_decoder(tmp_path: Any) -> None:
    model = Promptable().model(sam(), CLASSES, seed=5)
    file = tmp_path / "sam.safetensors"
    save_file(in_sams_layout(model), file)
    spec = BackboneSpec(title="sam", model=NAME, checkpoint=str(file))
    read = build_backbone(spec)
    assert "left out: mask_decoder, prompt_encoder" in read.weights_read
    again = Promptable().model(read, CLASSES, seed=6)
    boxes = torch.tensor([[[1, 2, 20, 30], [0, 0, 31, 31], [4, 4, 9, 9]]]).expand(2, -1, -1)
    with torch.no_grad():
        masks = [m.eval()(images(2)).answer(boxes)[0] for m in (model, again)]
    assert masks[0].shape == (2, 3, 32, 32)
    torch.testing.assert_close(*masks)
    save_file({k: v for k, v in in_sams_layout(model).items() if k.startswith("image_encoder.")}, file)
    with pytest.raises(BadInput, match=r"holds no prompt_encoder\.\* and mask_decoder\.\*; set backbone\.checkpoint"):
        Promptable().model(build_backbone(spec), CLASSES, seed=6)
    save_file({k: v for k, v in in_sams_layout(model).items() if "iou_token" not in k}, file)
    with pytest.raises(BadInput, match=r"mask_decoder\.iou_token\.weight is missing"):
        Promptable().model(build_backbone(spec), CLASSES, seed=6)


@pytest.mark.parametrize("backbone", ["vit_cls", "swin"])
def test_any_backbone_answers_with_a_decoder_of_its_own(backbone: str) -> None:
    built = installed(METHODS.get("lora")(), backbone)
    model: Any = Region(width=64).model(built, CLASSES, 0)
    truth = torch.arange(4 * 32 * 32).view(4, 32, 32) % 4
    Region().loss_fn(TrainSpec())(model.train(), {"image": images(4), "class_map": truth}).backward()
    trained = [name for name, p in model.head.named_parameters() if p.requires_grad and p.grad is None]
    assert trained == [] and model.head.project[0].weight.grad.any()
    assert model.eval()(images(2)).answer(Prompts.of(truth[:2], 1, 3).boxes)[0].shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", ["lora", "adaptformer", "bitfit", "cobot_lora", "cobot_adapter", "sam_parser", "full"])
def test_methods_attach_to_sams_encoder(name: str) -> None:
    built = sam()
    before = built.net.forward_features(images(2))
    method = METHODS.get(name)()
    install(method, built)
    model: Any = Promptable().model(built, CLASSES, 0)
    after = built.eval().net.forward_features(images(2))
    assert torch.allclose(before, after, atol=1e-5) == method.identity_at_init
    truth = torch.arange(4 * 32 * 32).view(4, 32, 32) % 4
    Promptable().loss_fn(TrainSpec())(model.train(), {"image": images(4), "class_map": truth}).backward()
    assert any(p.grad is not None and p.grad.any() for _, p in model.added)


def test_what_cannot_be_asked_is_said() -> None:
    with pytest.raises(ConfigError, match=r"first_class=4 leaves none of the 4 classes"):
        Promptable(first_class=4).meter(CLASSES)
    with pytest.raises(ConfigError, match=r"task\.width must be a multiple of 64, got 100"):
        Promptable(width=100)
