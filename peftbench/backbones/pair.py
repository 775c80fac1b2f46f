"""An image tower and a text tower that meet in one space: CLIP (arXiv:2103.00020), SigLIP, the embedded pair.

The features of an image and the texts of the classes are projected to one width and compared by cosine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import activations as timm_activations
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.class_texts import ClassTexts
from peftbench.backbones.text import TextTower
from peftbench.backbones.tokenizers import Tokenizer, rows_of
from peftbench.backbones.towers import TwoTowers
from peftbench.foundation.errors import NotApplicable

LARGEST_SCALE = 100.0


@dataclass(frozen=True)
class PairShape(BackboneShape):
    """Numbers of the image tower, and beside them: of the text tower, the joint width, how many classes are read
    and of how many tasks they are."""

    text: BackboneShape | None = None
    joint: int = 0
    num_classes: int = 0
    num_tasks: int = 1


def both_shapes(shape: BackboneShape) -> tuple[PairShape, BackboneShape]:
    """Shapes of a pair and of its text tower. Raises `NotApplicable` for a backbone that reads no text."""
    if not isinstance(shape, PairShape) or shape.text is None:
        raise NotApplicable("this backbone reads images alone, no class names; choose a pair: backbone=pair_micro")
    return shape, shape.text


class Match(nn.Module):
    """Features of images [batch, joint] and of classes [classes, joint] (or of each image's own: [batch, classes,
    joint]) -> logits [batch, classes]: cosine times the pair's scale, plus its bias where it has one."""

    def __init__(self, bias: float | None = None) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(LARGEST_SCALE)))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        f, w = F.normalize(features, dim=-1), F.normalize(classes, dim=-1)
        cosines = f @ w.T if w.ndim == 2 else (w @ f.unsqueeze(-1)).squeeze(-1)
        logits = self.logit_scale.exp() * cosines
        return logits if self.logit_bias is None else logits + self.logit_bias


class Pair(TwoTowers):
    """`forward(images)`: features of the image tower [batch, joint], or logits [batch, classes] once classes are read.

    Methods reach `image` and `text` by their sites, and what lies between: `classes` (the texts of the classes, ->
    [classes, joint]), `match` (-> logits), `image_projection` and `text_projection`.
    """

    text: TextTower

    def __init__(self, image: Backbone, text: TextTower, tokenizer: Tokenizer) -> None:
        super().__init__(image, text)
        self.tokenizer = tokenizer
        spec = text.spec
        if spec.activation == "gelu_tanh":
            _use_tanh(image.net)
        width = image.feature_dim
        self.image_projection: nn.Module = nn.Identity()
        if spec.projects_images:
            self.image_projection = nn.Linear(width, spec.joint, bias=False)
            nn.init.normal_(self.image_projection.weight, std=width**-0.5)
        self.text_projection = nn.Linear(spec.width, spec.joint, bias=spec.projection_bias)
        nn.init.normal_(self.text_projection.weight, std=spec.width**-0.5)
        self.match: nn.Module = Match(spec.logit_bias)
        self.classes: nn.Module | None = None
        self.class_names: tuple[str, ...] = ()
        # of every class the number of its task
        self.class_tasks: tuple[int, ...] = ()
        # of the images of the last pass, where it was told; kept behind it, since blocks may be computed again
        self.image_tasks: Tensor | None = None
        self.templates: tuple[str, ...] = ()
        self.feature_dim = spec.joint
        # features of the classes with what they depend on, and whether they have to be made again
        self._kept: tuple[Any, Tensor] | None = None
        self._old = True
        self._reshape()
        self.freeze()

    def _reshape(self) -> None:
        facts = {field.name: getattr(self.image.shape, field.name) for field in dataclasses.fields(BackboneShape)}
        facts["num_parameters"] = sum(parameter.numel() for parameter in self.parameters())
        joint, classes = self.text.spec.joint, len(self.class_names)
        tasks = len({*self.class_tasks}) or 1
        self.shape = PairShape(**facts, text=self.text.shape, joint=joint, num_classes=classes, num_tasks=tasks)

    def read_classes(self, names: Sequence[str], templates: Sequence[str], tasks: Sequence[int] = ()) -> None:
        """From here on `forward` compares images with these classes, each written into every template.

        `tasks`: of every class the number of its task; none where all are of one.
        Called once, ahead of a method's `attach`. Raises `BadInput` for a text that the tokenizer cannot write.
        """
        self.class_names, self.templates = tuple(names), tuple(templates)
        self.class_tasks = tuple(tasks) or (0,) * len(self.class_names)
        self.classes = ClassTexts.of(self, self.class_names, self.templates)
        self.classes.to(self.device)
        self._reshape()

    @property
    def texts(self) -> nn.Module:
        """`classes`, where they were read. Raises `NotApplicable` where they were not."""
        if self.classes is None:
            raise NotApplicable("this pair has read no classes; choose task=text_classification")
        return self.classes

    def forward(self, images: Tensor, tasks: Tensor | None = None) -> Tensor:
        features = self.image_features(images, tasks)
        if self.classes is None:
            return features
        logits: Tensor = self.match(features, self.class_features(features))
        return logits

    def written(self, texts: Sequence[Sequence[str]]) -> Tensor:
        most = max(map(len, texts))
        pieces = {text: self.tokenizer.pieces(text) for own in texts for text in own}
        rows = rows_of(self.text.spec, [pieces[own[i]] if i < len(own) else [] for own in texts for i in range(most)])
        return self.text.cut(rows).int().unflatten(0, (-1, most))

    def features_of_texts(self, ids: Tensor) -> Tensor:
        """Ids [..., length] -> [..., joint], not normalised."""
        rows = ids.flatten(0, -2)
        return self.text_features(self.text.embed(rows), self.text.ends(rows)).unflatten(0, ids.shape[:-1])

    def image_features(self, images: Tensor, tasks: Tensor | None = None) -> Tensor:
        """[batch, 3, height, width] -> [batch, joint], not normalised.

        `tasks`: int64 [batch], of every image the number of its task, for a method whose image tower has to know.
        """
        self.image_tasks = tasks
        features: Tensor = self.image_projection(self.image(images))
        return features

    def text_features(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Embedded tokens [texts, length, width], read at `ends` [texts] -> [texts, joint], not normalised."""
        features: Tensor = self.text_projection(self.text.read(embedded, ends))
        return features

    def class_features(self, features: Tensor) -> Tensor:
        """Features of the classes, not normalised: [classes, joint], or [batch, classes, joint] where they depend on
        the image features [batch, joint].

        Computed once per change of what they depend on: in every step of training that changes it, once for a whole
        pass of evaluation, and once for a training that leaves it alone.
        """
        classes = self.texts
        if getattr(classes, "by_image", False):
            of_each: Tensor = classes(self, features)
            return of_each
        side, moves = self._text_side(), self.first_batch_differs
        if moves and (self.training or not torch.is_inference_mode_enabled()):
            self._kept = None
            made: Tensor = classes(self, features)
            return made
        autocast = torch.is_autocast_enabled(features.device.type)
        key = [(id(tensor), tensor._version, tensor.data_ptr()) for tensor in side], classes, autocast, features.device
        # a step that is being recorded would do it in each of its replays
        old = self._old and not (features.is_cuda and torch.cuda.is_current_stream_capturing())
        if self._kept is None or self._kept[0] != key or old:
            self._kept, self._old = (key, self._to_keep(classes, features, moves)), False
        return self._kept[1]

    def _to_keep(self, classes: nn.Module, features: Tensor, moves: bool) -> Tensor:
        """Made anew; where nothing moves, in the memory it had, since recorded steps read it there."""
        # of what does not move evaluation must not make what training cannot use, and nothing is dropped in training
        with torch.inference_mode(moves), in_evaluation(self.text):
            made: Tensor = classes(self, features)
        before = None if moves or self._kept is None else self._kept[1]
        if before is not None and not before.is_inference() and _alike(before, made):
            return before.copy_(made)
        return made

    def _text_side(self) -> list[Tensor]:
        return [*self.text.parameters(), *self.text_projection.parameters(), *self.texts.parameters()]

    @property
    def first_batch_differs(self) -> bool:
        if self.classes is None or getattr(self.classes, "by_image", False):
            return False
        return any(tensor.requires_grad for tensor in self._text_side())

    def train(self, mode: bool = True) -> Pair:
        # a step that is replayed on a device changes tensors unseen
        self._old = True
        super().train(mode)
        return self


def _use_tanh(net: nn.Module) -> None:
    """The tanh form of GELU for the exact one, in place: both towers of SigLIP were trained with it (big_vision,
    `models/vit.py`), and of timm's image towers only some have it."""
    for parent in list(net.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.GELU | timm_activations.GELU):
                setattr(parent, name, nn.GELU("tanh"))


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in evaluation mode; put back behind, every part as the module itself was."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _alike(first: Tensor, second: Tensor) -> bool:
    facts = [(tensor.shape, tensor.dtype, tensor.device) for tensor in (first, second)]
    return facts[0] == facts[1]
