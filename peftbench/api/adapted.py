"""A method on a timm model of one's own, for one's own loop: attach, train, save, load, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from peftbench.adapters.file import (
    COUNTS,
    SEEDS,
    adapter_tensors,
    facts_in,
    file_bytes,
    has_format,
    load_adapter,
    read_adapter,
)
from peftbench.adapters.sharing import FORMAT as EXPORTED
from peftbench.adapters.sharing import weights_digest, with_adapter
from peftbench.api.parts import method_called
from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm, own_frames
from peftbench.backbones.families import translator
from peftbench.foundation.errors import BadInput, ConfigError, NotApplicable, brief
from peftbench.foundation.files import replace_bytes
from peftbench.foundation.overwriting import refuse_other
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import build
from peftbench.interventions.head import plain_head
from peftbench.methods.base import Method, has_interventions, install
from peftbench.tasks.model import TaskModel, new_head

FORMAT = "peftbench-attached-1"
# on a network: the name of the method that was attached to it
_MARK = "peftbench_method"
# what `load` reads of a file's facts, and of which kind it must be
_FACTS: dict[str, Any] = {"method": {"name": str}, "num_classes": COUNTS, "seed": SEEDS, "digest": str}


class Adapted(TaskModel):
    """A timm model with a method attached: images [batch, 3, height, width] -> logits [batch, classes].

    One that was attached for clips takes [batch, frames, 3, height, width].

    A plain module: everything that trains has `requires_grad`, the pretrained rest is frozen. Without classes
    (`timm.create_model(..., num_classes=0)`) it gives pooled features [batch, width].
    """

    def __init__(self, backbone: Backbone, head: nn.Module, method: Method, seed: int, digest: str) -> None:
        super().__init__(backbone, head)
        self.method, self.seed = method, seed
        self._digest = digest

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name: `torch.optim.AdamW(model.trainable.values(), lr=1e-3)`."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def num_trainable(self) -> int:
        """How many numbers train, head included."""
        return sum(parameter.numel() for parameter in self.trainable.values())

    def table(self) -> pd.DataFrame:
        """What trains: one row per tensor with its `name`, `shape` and `parameters`."""
        rows = [(name, tuple(tensor.shape), tensor.numel()) for name, tensor in self.trainable.items()]
        return pd.DataFrame(rows, columns=["name", "shape", "parameters"])

    def save(self, path: Path | str) -> Path:
        """Write what was trained, and what `load` needs to put it back, as one safetensors file.

        The frozen weights stay out; a digest of them is kept. Raises `ConfigError` for another ending than
        `.safetensors` and for a file that `save` did not write, and as the disk does.
        """
        if Path(path).suffix != ".safetensors":
            raise ConfigError([f"save() writes a .safetensors file, got '{brief(str(path))}'"])
        refuse_other(Path(path), "model of save()", lambda file: has_format(file, FORMAT))
        facts = {
            "method": {"name": self.method.name} | self.method.identity(),
            "seed": self.seed,
            "num_classes": num_classes_of(self.head),
            "digest": self._digest,
            **({"frames": self.backbone.shape.frames} if self.backbone.shape.frames > 1 else {}),
        }
        content = file_bytes(self._own_tensors(), {"format": FORMAT, "facts": json.dumps(facts)})
        replace_bytes(Path(path), content)
        return Path(path)

    def load(self, path: Path | str) -> Adapted:
        """Put the tensors of a file of `save` into this model, which must have the same method and weights.

        Raises `MissingInput` and `BadInput`.
        """
        tensors, metadata = read_adapter(Path(path))
        facts = facts_of(metadata, Path(path))
        if frames_of(facts, Path(path)) != self.backbone.shape.frames:
            raise BadInput(f"{path} was trained with frames={facts.get('frames', 1)}; attach the method with the same")
        if facts["digest"] != self._digest:
            raise BadInput(f"{path} was trained on other weights than those of this model")
        load_adapter(self, tensors, Path(path))
        return self

    def merge(self) -> nn.Module:
        """Fold the method into the weights and return the plain timm model with its classifier.

        The same outputs up to rounding, at no cost in inference; nothing of peftbench is left in it, and this object
        is not to be used any more. One for clips of frames takes images, and the mean of its outputs over the frames is
        what this one gave; a network of clips takes them as it always did.

        Raises `NotApplicable` for a method that does not fold exactly.
        """
        if not self.method.mergeable:
            raise NotApplicable(f"{self.method.name} does not fold exactly into the weights; keep the model as it is")
        self.method.merge(self.backbone)
        net: Any = self.backbone.net
        net.__dict__.pop(_MARK, None)
        if isinstance(self.head, nn.Linear):
            net.reset_classifier(self.head.out_features)
            classifier = net.get_classifier()
            classifier.load_state_dict(plain_head(self.head).state_dict())
            classifier.to(self.head.weight.device)
        merged: nn.Module = net
        return merged

    def _own_tensors(self) -> dict[str, Tensor]:
        return adapter_tensors(self, self._frozen_buffers)

    _frozen_buffers: tuple[Tensor, ...] = ()


def attach(
    method: str,
    net: nn.Module,
    *,
    num_classes: int | None = None,
    train_head: bool = True,
    seed: int = 0,
    frames: int = 1,
    **options: Any,
) -> Adapted:
    """`net` with a method attached, ready for a training loop: `attach("lora", timm.create_model(...), rank=8)`.

    method: a name of `peftbench.methods()`; options: its hyperparameters. net: a model of timm (vision transformer,
    Swin, ConvNeXt), which is changed in place and frozen. Its own classifier is kept and trained, unless `num_classes`
    asks for a new one (0: none, features instead). seed: of the method's own initialisation and of a new head. frames:
    of a clip; above 1 the model takes clips [batch, frames, 3, height, width], each frame an image to the network. A
    network of clips has its own number.

    Raises `ConfigError` for an unknown method or option, `NotApplicable` where the model has no place for the method
    or has one already.
    """
    return _attached(_spec(method, options), net, num_classes, train_head, seed, frames)


def _spec(name: str, options: dict[str, Any]) -> Method:
    cls, defaults = method_called(name)
    spec = build(cls, defaults | options)
    assert isinstance(spec, Method)
    if spec.looks_first:
        raise NotApplicable(
            f"{name} looks at training images before it is attached; use peftbench.run(method='{name}', ...)"
        )
    return spec


def _attached(
    spec: Method, net: nn.Module, num_classes: int | None, train_head: bool, seed: int, frames: int
) -> Adapted:
    _check(net, num_classes, seed, frames)
    model: Any = net
    classifier, had = (model.get_classifier(), model.num_classes) if model.num_classes else (None, 0)
    model.reset_classifier(0)
    digest = weights_digest(net)
    # from here on a second method would act on what the first one left, or find no classifier
    setattr(net, _MARK, spec.name)
    backbone = from_timm(net, frames=frames)
    frozen = tuple(backbone.buffers())
    wanted = had if num_classes is None else num_classes
    try:
        # a head that the method cannot change is told ahead of changing the network
        head = spec.on_head(_head(classifier, backbone.feature_dim, wanted, num_classes is not None, seed))
        install(spec, backbone, seed)
    except NotApplicable:
        _give_back(model, classifier, had)
        raise
    head.requires_grad_(train_head)
    adapted = Adapted(backbone, head, spec, seed, digest)
    adapted._frozen_buffers = frozen
    return adapted.to(next(net.parameters()).device)


def _check(net: Any, num_classes: Any, seed: Any, frames: Any) -> None:
    """Raises `ConfigError` and `NotApplicable` for what cannot be attached to, before anything is changed."""
    if not isinstance(net, nn.Module):
        raise ConfigError([f"a method is attached to a model such as timm.create_model(...), got {type(net).__name__}"])
    translator(net)
    if attached := getattr(net, _MARK, None):
        raise NotApplicable(
            f"this model has {attached} attached already; make it anew (timm.create_model) or take what merge() returns"
        )
    least = {"num_classes": (num_classes, 0), "seed": (seed, 0), "frames": (frames, 1)}
    problems = [
        f"{name} must be a whole number of at least {low}, got {value!r}"
        for name, (value, low) in least.items()
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low)
    ]
    own = own_frames(net)
    if not problems and own is not None and frames not in (1, own):
        problems.append(f"frames={frames}: this network was built for clips of {own} frames; leave frames out")
    if problems:
        raise ConfigError(problems)


def _give_back(model: Any, classifier: Any, num_classes: int) -> None:
    """The classifier to a model that a method has no place on, so that another one may be tried."""
    if has_interventions(model):
        return
    model.__dict__.pop(_MARK, None)
    if num_classes:
        model.reset_classifier(num_classes)
        made = model.get_classifier()
        # the very module, which may be of a class of the user's own
        model.set_submodule(next(name for name, module in model.named_modules() if module is made), classifier)
        model.to(next(model.parameters()).device)


def load(path: Path | str, net: nn.Module, merge: bool = False) -> nn.Module:
    """`net` with what a file holds, in evaluation mode: a file of `Adapted.save` or of the command `export`.

    net: the timm model with the weights and image size the file was trained on. Raises `MissingInput` where there is
    no such file, `BadInput` when it holds no adapter or was trained on other weights.
    """
    _, metadata = read_adapter(Path(path))
    if metadata.get("format") == EXPORTED:
        return with_adapter(net, path, merge)
    facts = facts_of(metadata, Path(path))
    options = {key: value for key, value in facts["method"].items() if key != "name"}
    try:
        spec = _spec(facts["method"]["name"], options)
    except ConfigError as error:
        raise BadInput(f"{path}: this version cannot attach its method ({error})") from error
    adapted = _attached(spec, net, facts["num_classes"], True, facts["seed"], frames_of(facts, Path(path)))
    adapted.load(path).eval()
    return adapted.merge() if merge else adapted


def facts_of(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """What a file of `Adapted.save` says of itself. Raises `BadInput` for any other file."""
    if metadata.get("format") != FORMAT:
        raise BadInput(f"{path} was not written by save() of an attached model")
    return facts_in(metadata, _FACTS, path, "write it again with save()")


def frames_of(facts: dict[str, Any], path: Path) -> int:
    """Frames of a clip that a file's model takes; 1 for images. Raises `BadInput` for what is no such number."""
    frames = facts.get("frames", 1)
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise BadInput(f"{path}: frames is no number of frames; write the file again with save()")
    return frames


def num_classes_of(head: nn.Module) -> int:
    return head.out_features if isinstance(head, nn.Linear) else 0


def _head(classifier: Any, width: int, num_classes: int, anew: bool, seed: int) -> nn.Module:
    """The model's own classifier where it fits the features, else a new one of the suite's kind."""
    if num_classes == 0:
        return nn.Identity()
    if not anew and isinstance(classifier, nn.Linear) and classifier.in_features == width:
        return classifier
    with seeded(seed, "head"):
        return new_head(width, num_classes)
