"""Promptable segmentation: boxes around the classes of an image are the prompts, a mask for each is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.beside import tensors_beside
from peftbench.backbones.maps import feature_maps, taps_of
from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.foundation.exact import exact
from peftbench.foundation.maps import UNKNOWN
from peftbench.foundation.metric import Metric
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import option
from peftbench.tasks.base import TASKS, Targets, Task
from peftbench.tasks.decoders import resized
from peftbench.tasks.dense import Sums
from peftbench.tasks.mask_decoder import LayerNorm2d, PromptedHead, Sizes
from peftbench.tasks.model import TaskModel
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured
from peftbench.train.loss import LossFn, Model
from peftbench.train.options import TrainSpec

# of a checkpoint of SAM, beside the image encoder
_PARTS = ("prompt_encoder.", "mask_decoder.")
# MONAI's, which the released code of SAM-PARSER and of Cross Block Orchestration takes
_SMOOTH = 1e-5


@TASKS.add("promptable")
@dataclass(frozen=True)
class Promptable(Task):
    """A mask for the box around every class of `class_map`, int64 [batch, height, width], 255 unknown.

    Classes before `first_class` are background and never asked for. On a SAM encoder the prompt encoder and the mask
    decoder are those of the backbone's checkpoint; on any other backbone both start afresh, `width` wide, on the map
    behind the last block. The decoder trains. Loss: Dice and binary cross-entropy, the mean over the boxes there are.
    """

    primary: ClassVar[Metric] = Metric("miou")
    reads: ClassVar[tuple[str, ...]] = ("class_map",)
    reads_maps: ClassVar[bool] = True

    first_class: int = option(1, ge=0)
    width: int = option(256, ge=64)

    def problems(self) -> Sequence[str]:
        return [] if self.width % 64 == 0 else [f"task.width must be a multiple of 64, got {self.width}"]

    def asked(self, targets: Targets) -> list[str]:
        """The classes that are asked for. Raises `ConfigError` where none is left."""
        names = list(targets.class_names)[self.first_class :]
        if not names:
            words = f"task.first_class={self.first_class} leaves none of the {targets.num_classes} classes"
            raise ConfigError([f"{words}; the first one is number 0"])
        return names

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        with seeded(seed, "head"):
            return PromptedModel(backbone, self.width, len(self.asked(targets)))

    def loss_fn(self, train: TrainSpec, inputs: Sequence[str] = ("image",)) -> LossFn:
        def loss_fn(model: Model, batch: Batch) -> Tensor:
            answers: Any = model(*(batch[name] for name in inputs))
            return self.loss(answers, Prompts.of(batch["class_map"], self.first_class, answers.num_asked))

        return loss_fn

    def loss(self, image: EncodedImages, prompts: Prompts) -> Tensor:
        return mean_over(prompts.there, mask_losses(image.answer(prompts.boxes)[0], prompts))

    def prompts_of(self, outputs: Any, batch: Batch) -> Tensor:
        return Prompts.of(batch["class_map"], self.first_class, outputs.num_asked).rows(self.first_class)

    def said_of(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """`class_map`: of each pixel the class whose mask is surest of it; where no mask is, the background.

        Where boxes are told apart, a mask has the class that its box is said to hold.
        """
        prompts = Prompts.of(batch["class_map"], self.first_class, outputs.num_asked)
        masks, scores = outputs.answer(prompts.boxes)
        surest, place = masks.masked_fill(~prompts.there[..., None, None], -torch.inf).max(dim=1)
        if scores is not None:
            place = scores.argmax(dim=2).gather(1, place.flatten(1)).view_as(place)
        background = 0 if self.first_class else UNKNOWN
        return {"class_map": torch.where(surest > 0, place + self.first_class, background)}

    def meter(self, targets: Targets) -> PromptableMeter:
        return PromptableMeter(self.asked(targets), self.first_class)


@TASKS.add("region")
@dataclass(frozen=True)
class Region(Promptable):
    """The same, and the class of what is in each box: the region task of Tokenize Anything (arXiv:2312.09128).

    A semantic token of the decoder goes through a linear map; its cross-entropy is added to the loss. Tokenize Anything
    itself aligns that token with 2,560 concepts of CLIP by an MLP and trains masks by focal and Dice losses.
    """

    primary: ClassVar[Metric] = Metric("region_accuracy")

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        count = len(self.asked(targets))
        with seeded(seed, "head"):
            return PromptedModel(backbone, self.width, count, num_classes=count)

    def loss(self, image: EncodedImages, prompts: Prompts) -> Tensor:
        masks, scores = image.answer(prompts.boxes)
        assert scores is not None
        return mean_over(prompts.there, mask_losses(masks, prompts) + class_losses(scores))


@dataclass(frozen=True)
class Prompts:
    """Of every class asked for in a batch of images: its box, its mask, and whether it is there.

    boxes [batch, classes, 4] (left, top, right, bottom: numbers of pixels, the last inside), the whole image where the
    class is absent; there bool [batch, classes]; masks and known float32 [batch, classes or 1, height, width].
    """

    boxes: Tensor
    there: Tensor
    masks: Tensor
    known: Tensor

    @classmethod
    def of(cls, class_map: Tensor, first: int, count: int) -> Prompts:
        numbers = torch.arange(first, first + count, device=class_map.device)
        masks = class_map[:, None] == numbers[:, None, None]
        (top, bottom), (left, right) = _span(masks.any(dim=3)), _span(masks.any(dim=2))
        boxes = torch.stack([left, top, right, bottom], dim=-1)
        known = (class_map != UNKNOWN)[:, None]
        return cls(boxes, masks.any(dim=3).any(dim=2), masks.float(), known.float())

    def rows(self, first: int) -> Tensor:
        """float32 [batch, classes, 6]: the boxes with their classes as `foundation.maps` has them."""
        numbers = torch.arange(first, first + self.there.shape[1], device=self.boxes.device)
        edges = torch.cat([self.boxes[..., :2], self.boxes[..., 2:] + 1], dim=-1)
        columns = [edges, numbers.expand(self.there.shape)[..., None], torch.zeros_like(edges[..., :1])]
        return torch.where(self.there[..., None], torch.cat(columns, dim=-1), 0).float()


def _span(marked: Tensor) -> tuple[Tensor, Tensor]:
    """First and last marked place along the last axis; all of it where nothing is marked."""
    size = marked.shape[-1]
    place = torch.arange(size, device=marked.device)
    last = torch.where(marked, place, -1).amax(dim=-1)
    return torch.where(marked, place, size).amin(dim=-1) % size, torch.where(last < 0, size - 1, last)


@dataclass(frozen=True)
class EncodedImages:
    """Images that were looked at once and can be asked for any boxes."""

    embedding: Tensor
    head: PromptedHead
    size: int
    num_asked: int

    def answer(self, boxes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mask logits [batch, boxes, size, size], and class scores [batch, boxes, classes] where the head has them.

        In single precision at least, whatever the images were encoded in.
        """
        with torch.autocast(self.embedding.device.type, enabled=False):
            masks, scores = self.head(exact(self.embedding), boxes, self.size)
            return resized(masks, (self.size, self.size)), scores


class PromptedModel(TaskModel):
    """images [batch, 3, size, size] -> `EncodedImages`."""

    def __init__(self, backbone: Backbone, width: int, num_asked: int, num_classes: int = 0) -> None:
        promptable = backbone.shape.family == "sam"
        found = taps_of(backbone, 1)
        taps = None if promptable else found.last
        state = tensors_beside(backbone, _PARTS) if promptable else {}
        if state:
            sizes = Sizes.of(state)
        else:
            width = backbone.shape.width if promptable else width
            sizes = Sizes(width, 8 * width)
        head = PromptedHead(sizes, num_classes)
        if state:
            _load(head, state)
        head.project = _projection(taps.widths[0], width) if taps else nn.Identity()
        super().__init__(backbone, head)
        self.layers = taps.layers if taps else ()
        self.num_asked = num_asked

    @property
    def kept(self) -> dict[str, Tensor]:
        encoder: Any = self.head.prompt_encoder
        return {f"head.prompt_encoder.{name}": tensor for name, tensor in encoder.named_parameters()}

    def forward(self, *inputs: Tensor) -> EncodedImages:
        found: Tensor
        if self.layers:
            (found,) = feature_maps(self.backbone, inputs, self.layers)
        else:
            found = self.backbone.net.forward_features(*inputs)  # type: ignore[operator]
        head: Any = self.head
        return EncodedImages(head.project(found), head, inputs[0].shape[-1], self.num_asked)


def _projection(inside: int, outside: int) -> nn.Module:
    """A neck for backbones that have none."""
    return nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), LayerNorm2d(outside))


def _load(head: PromptedHead, state: dict[str, Tensor]) -> None:
    """The tensors of a checkpoint that box prompts need. Raises `BadInput` where one is missing or of another shape."""
    own = {name: tensor for name, tensor in head.state_dict().items() if name.startswith(_PARTS)}
    for name, tensor in own.items():
        if name not in state or state[name].shape != tensor.shape:
            found = "is missing" if name not in state else f"is {list(state[name].shape)} and not {list(tensor.shape)}"
            raise BadInput(f"the mask decoder of backbone.checkpoint is not SAM's: {name} {found}")
    head.load_state_dict({name: state[name] for name in own}, strict=False)


def mask_losses(logits: Tensor, prompts: Prompts) -> Tensor:
    """Dice of squared probabilities plus the mean cross-entropy, over known pixels: [batch, boxes]."""
    logits = exact(logits)
    truth, known = prompts.masks.to(logits.dtype), prompts.known.to(logits.dtype)
    chances = logits.sigmoid() * known
    overlap, sizes = (chances * truth).sum(dim=(2, 3)), (chances.square() + truth.square()).sum(dim=(2, 3))
    dice = 1 - (2 * overlap + _SMOOTH) / (sizes + _SMOOTH)
    entropies = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known
    return dice + entropies.sum(dim=(2, 3)) / known.sum(dim=(2, 3)).clamp(min=1)


def class_losses(scores: Tensor) -> Tensor:
    """Cross-entropy of the class of each box, whose number is its place: [batch, boxes]."""
    truth = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
    found: Tensor = F.cross_entropy(scores.flatten(0, 1), truth.flatten(), reduction="none")
    return found.unflatten(0, scores.shape[:2])


def mean_over(there: Tensor, losses: Tensor) -> Tensor:
    # an absent class is asked for with a box of its own making; its answer counts in nothing
    return torch.where(there, losses, torch.zeros_like(losses)).sum() / there.sum().clamp(min=1)


class PromptableMeter:
    """`EncodedImages` -> numbers of the masks at a chance of one half, from counts over the whole split.

    miou and dice: means over the classes that occur of tp / (tp + fp + fn) and 2 tp / (2 tp + fp + fn); iou/<class>.
    region_accuracy, where the head says classes: the share of boxes whose class is right. loss: the training loss.
    """

    def __init__(self, class_names: Sequence[str], first_class: int) -> None:
        self._names, self._first = tuple(class_names), first_class
        self._sums = Sums()

    def update(self, outputs: Any, batch: Batch) -> None:
        prompts = Prompts.of(batch["class_map"], self._first, len(self._names))
        logits, scores = outputs.answer(prompts.boxes)
        there = prompts.there[..., None, None]
        said, truth = (logits > 0) & (prompts.known > 0) & there, prompts.masks > 0
        losses, right = mask_losses(logits, prompts), torch.zeros_like(prompts.there)
        if scores is not None:
            losses = losses + class_losses(scores)
            right = scores.argmax(dim=2) == torch.arange(len(self._names), device=scores.device)
        self._sums.add(
            hits=(said & truth).sum(dim=(0, 2, 3)),
            either=(said | truth).sum(dim=(0, 2, 3)),
            right=(right & prompts.there).sum(),
            loss=torch.where(prompts.there, losses, torch.zeros_like(losses)).sum(),
            pixels=prompts.there.sum(),
            images=torch.as_tensor(len(logits)),
            classifies=torch.as_tensor(int(scores is not None)),
        )

    def result(self) -> Measured:
        loss, sums = self._sums.mean_loss(), self._sums
        hits, either = sums["hits"].astype(np.float64), sums["either"].astype(np.float64)
        present = either > 0
        iou = hits[present] / either[present]
        found = [name for name, seen in zip(self._names, present, strict=True) if seen]
        metrics: dict[str, float | int] = {
            "miou": float(iou.mean()) if len(iou) else 0.0,
            "dice": float((2 * iou / (1 + iou)).mean()) if len(iou) else 0.0,
            "boxes": sums["pixels"],
            **{f"iou/{name}": float(value) for name, value in zip(found, iou, strict=True)},
        }
        if sums["classifies"]:
            metrics = {"region_accuracy": sums["right"] / max(sums["pixels"], 1), **metrics}
        return Measured({**metrics, "loss": loss, "n": sums["images"]})
