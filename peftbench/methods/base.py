"""What a method is: hyperparameters, how it attaches to a backbone, and how many parameters that must train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.registry import Registry
from peftbench.foundation.seeding import seeded
from peftbench.foundation.spec import Part, option
from peftbench.interventions import Intervention, fold_all, release
from peftbench.methods.observation import Evidence, Findings, Survey

METHODS: Registry[Method]
TOWERS = ("image", "text")


class MethodContractError(AssertionError):
    """A method's code does not do what the method declares: a bug in the method, not in the user's input."""


@dataclass(frozen=True)
class Method(Part):
    """Base of all methods. The fields of a subclass are its hyperparameters, with the paper's values as defaults.

    Class facts: `version` (raise it when the meaning of the code changes), `family`, `paper`, `identity_at_init` (the
    network's function is unchanged at the start), `mergeable` (folds exactly into plain modules), `pools_itself`
    (features are pooled the method's way; `identity_at_init` then speaks of the tokens), `size_option` (the one option
    that sets how much is trained, which tuning searches; "" where there is none), `observes` (the method looks at
    training images before it attaches: `observe`, then `attach_with` in place of `attach`), `by_class` (what it looks
    for needs one class an image), `steps_alike` (every training step runs the same operations, so that one can be
    recorded and replayed; false where the host chooses a path anew, say by a draw of Python's or by counting steps; a
    draw on the device is no such path), `rearranges` (ahead of an epoch it may change the operations of the network, so
    that blocks cannot be compiled, nor tensors averaged over epochs), `mixes_time` (works across the frames of a clip,
    and so on clips only), `shortens` (fewer tokens leave a block than enter it, so that a pass costs less than the
    frozen network's), `frame_readout` (how the frames of a clip are pooled), `of_pairs` (attaches to a `Pair` as a
    whole, and reads `towers` where it `chooses_towers`), `trains_nothing` (no step is taken: all is there once it is
    attached), `by_task` (makes maps for each task, and so needs several that read them: `shape.tasks`), `faithfulness`
    (one of `FAITHFULNESS`), and `adapted`: one sentence on what was changed, for adapted methods only; on families
    `at_home` nothing was.
    """

    section: ClassVar[str] = "method"
    family: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    identity_at_init: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False
    pools_itself: ClassVar[bool] = False
    size_option: ClassVar[str] = ""
    observes: ClassVar[bool] = False
    by_class: ClassVar[bool] = False
    steps_alike: ClassVar[bool] = True
    rearranges: ClassVar[bool] = False
    mixes_time: ClassVar[bool] = False
    by_task: ClassVar[bool] = False
    shortens: ClassVar[bool] = False
    frame_readout: ClassVar[str] = "norm_then_mean"
    of_pairs: ClassVar[bool] = False
    chooses_towers: ClassVar[bool] = False
    trains_nothing: ClassVar[bool] = False
    at_home: ClassVar[tuple[str, ...]] = ()

    # of a pair of towers, those that it attaches to, in the order of `TOWERS`
    towers: list[str] = option(["image"], choices=TOWERS, later=True)

    def __post_init__(self) -> None:
        # of what is chosen out of a list (towers, targets, halves): in whichever order it is named, it is one cell
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata.get("choices")
            if choices is not None and isinstance(value, list):
                allowed = choices() if callable(choices) else choices
                known = [name for name in allowed for _ in range(value.count(name))]
                object.__setattr__(self, field.name, known + [name for name in value if name not in allowed])
        super().__post_init__()

    @property
    def looks_first(self) -> bool:
        """Whether this one observes; a method may leave it to an option, and then `observes` is false."""
        return self.observes

    @property
    def bound_to_classes(self) -> bool:
        """Whether what it learns belongs to single classes, so that it says nothing of others."""
        return False

    def attach(self, backbone: Backbone) -> None:
        """Change a frozen backbone: wrap sites, unfreeze existing tensors. New parameters train by themselves.

        Initialisation happens here and nowhere else. Raises `NotApplicable` if the backbone lacks a place.
        """
        raise self.unwritten("attach")

    def on_head(self, head: nn.Module) -> nn.Module:
        """The head of the task as the method has it trained: as it is for nearly all.

        What it trains counts as the head's. What looks at training images first looks with the task's own. Raises
        `NotApplicable` for a head of another kind than the method changes.
        """
        return head

    def observe(self, evidence: Evidence) -> Findings:
        """Look at training images and say what was found. Leaves the backbone as it was.

        Raises `NotApplicable` before looking if the backbone lacks a place.
        """
        raise self.unwritten("observe")

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        """`attach` for a method that observes: what it does follows from the findings and its options alone."""
        raise self.unwritten("attach_with")

    def before_epochs(self, backbone: Backbone, survey: Survey, seed: int) -> Callable[[int], None] | None:
        """What is done ahead of each epoch, given its number from 0; nothing for nearly all.

        `survey` passes over the training images without a step. What it changes has to lie in tensors that train or in
        buffers, in place, so that it is saved and the epoch that is chosen has it; a module that keeps on the host
        what they say is a `foundation.written.HostRead`. Chance is drawn from `seed`. Its passes are in the seconds of
        training, and in no counted FLOPs.
        """
        return None

    def expected_params(self, shape: BackboneShape) -> int | None:
        """Number of trainable parameters without the classifier, from numbers only.

        None where no formula is known, or where the number depends on what is found.
        """
        raise self.unwritten("expected_params")

    def expected_with(self, shape: BackboneShape, findings: Findings) -> int | None:
        """The same once the findings are known."""
        return self.expected_params(shape)

    def summary(self, findings: Findings) -> dict[str, Any]:
        """What of the findings is worth a line in a record, as plain values."""
        return {}

    def lr_scale(self, tensor: str) -> float:
        """How many times the cell's learning rate a trained tensor of this name takes."""
        return 1.0

    def inert(self, backbone: Backbone) -> Mapping[str, slice | Tensor]:
        """Entries of trainable tensors that analytically get no gradient: name -> slice of the first axis, or a mask.

        They train and are counted; declaring them tells them from tensors that a mistake has cut off.
        """
        return {}

    def merge(self, backbone: Backbone) -> None:
        """Fold the method into plain modules.

        Raises `MethodContractError` for one that never folds, `NotApplicable` where modules of this backbone have no
        place for what would be folded into them, such as norms without a shift.
        """
        if not self.mergeable:
            raise MethodContractError(f"{self.name} cannot be merged exactly")
        if left := fold_all(backbone):
            kinds = ", ".join(sorted({type(wrapper.base).__name__ for wrapper in left}))
            raise NotApplicable(f"{self.name} does not fold into {kinds}; leave it unmerged (protocol.merge=false)")
        release(backbone)


METHODS = Registry("method", "peftbench.methods", base=Method)


def install(method: Method, backbone: Backbone, seed: int = 0, findings: Findings | None = None) -> None:
    """Freeze the backbone, attach the method, and verify on every run that it did what it declares.

    The method's own initialisation draws from a stream of its own, so that it does not depend on what was drawn
    before. A method that observes needs the `findings` of its `observe`. Raises `MethodContractError` without them,
    when an original tensor was replaced, or when the count is not the formula's.
    """
    if method.looks_first and findings is None:
        raise MethodContractError(f"{method.name} looks at images first: install it with the findings of observe()")
    if method.mixes_time and backbone.shape.frames == 1:
        raise NotApplicable(
            f"{method.name} works across the frames of clips; this data has images (dataset=moving_shapes)"
        )
    if method.mixes_time and backbone.shape.times > 1:
        raise NotApplicable(
            f"{method.name} gives time to a network of images; this one takes clips as a whole and has it by itself"
        )
    if method.by_task and backbone.shape.tasks == 1:
        raise NotApplicable(f"{method.name} tells several tasks with maps apart; this cell has one (task=several)")
    targets, device = _targets(method, backbone), backbone.device
    backbone.freeze()
    widths = [target.feature_dim for target in targets]
    before = {id(tensor): name for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]}
    with seeded(seed, "method"):
        for target in targets:
            if findings is None:
                method.attach(target)
            else:
                method.attach_with(target, findings)
    if len(backbone.towers) > 1 and [target.feature_dim for target in targets] != widths:
        raise NotApplicable(f"{method.name} changes the width of features, which a pair projects as they were")
    backbone.read_frames(method.frame_readout)
    after = {id(tensor) for tensor in [*backbone.parameters(), *backbone.buffers()]}
    lost = [name for key, name in before.items() if key not in after]
    if lost:
        raise MethodContractError(f"{method.name} replaced {len(lost)} tensors of the backbone, first {lost[0]}")
    counted = sum(parameter.numel() for _, parameter in backbone.trainable)
    expected = _expected(method, targets, findings)
    if expected is not None and counted != expected:
        raise MethodContractError(f"{method.name} trains {counted} parameters; its formula gives {expected}")
    # what was drawn on the CPU joins the network, which may be run or folded from here on
    backbone.to(device)


def _targets(method: Method, backbone: Backbone) -> list[Backbone]:
    """What the method attaches to: a pair as a whole, or the towers it is told. Raises `NotApplicable`."""
    both = len(backbone.towers) > 1
    if not method.towers or len(set(method.towers)) < len(method.towers):
        raise ConfigError([f"method.towers must name towers, each once, got {method.towers}"])
    if method.of_pairs:
        if not both:
            raise NotApplicable(f"{method.name} needs a backbone that reads images and texts, such as pair_micro")
        if method.towers != ["image"] and not method.chooses_towers:
            raise ConfigError([f"{method.name} works on both towers; leave out method.towers"])
        return [backbone]
    if not both and method.towers != ["image"]:
        raise NotApplicable(f"method.towers={method.towers}: this backbone reads images alone")
    if method.looks_first and method.towers != ["image"]:
        raise NotApplicable(f"{method.name} looks at images and attaches to the image tower alone")
    return [backbone.towers[name] for name in method.towers]


def _expected(method: Method, targets: list[Backbone], findings: Findings | None) -> int | None:
    counts = [
        method.expected_params(target.shape) if findings is None else method.expected_with(target.shape, findings)
        for target in targets
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def has_interventions(module: nn.Module) -> bool:
    """Whether any wrapper is left below `module`."""
    return any(isinstance(child, Intervention) for child in module.modules())
