"""Options of the optimiser and of training: the sections `optim` and `train` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.foundation.spec import Spec, defaults_of, option

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("steps", "epochs", "poly")
PRECISIONS = ("fp32", "bf16", "fp16")
# cut out of pictures while they are read, so that every epoch reads them anew
CUT_WHILE_READ = ("window_flip", "whole_rrc_flip", "jitter_flip", "scales_flip")
AUGMENTS = ("none", "flip", "crop_flip", "rrc_flip", *CUT_WHILE_READ, "scale_crop_flip", "scale_rotate_flip")
SELECTIONS = ("last", "best_val")
LAST_BLOCKS = ("all", "read")


@dataclass(frozen=True)
class OptimSpec(Spec):
    """Optimiser and learning-rate schedule: linear warm-up, then cosine decay, both counted in steps.

    The defaults are the recipe of NOAH (arXiv:2206.04673), shared by most visual PEFT papers. `warmup_lr` and
    `min_lr` are absolute rates, not factors of `lr`; the head's rates are all of these times `head_lr_scale`.
    `schedule` `epochs` sets the rate once an epoch, as CoOp's line of work does: `warmup_lr` throughout the warm-up,
    which no scale changes, then a half cosine over all epochs that begins behind it (see `Schedule`). `poly` falls
    behind the warm-up as the power `power` of the share of steps that is left, as mmsegmentation does; a power of 1 is
    a straight line.
    `average_mean`, `average_std`: in the end the model holds the mean of its tensors behind every epoch, weighted by a
    normal density over the epochs 1, 2, ... of that mean and deviation; null holds those of the selected epoch.
    `adam` adds the decay to the gradient; `eps` is what it and `adamw` add to the root of the second moment.
    `decay_vectors` lets weight decay act on tensors of one axis too (biases, norms, scales), as plain optimisers do;
    tensors in whose names a word of `undecayed` stands have none in any case (`[.norm.]`, `[pos_embed]`).
    """

    section: ClassVar[str] = "optim"

    name: str = option("adamw", choices=OPTIMIZERS)
    lr: float = option(1e-3, gt=0)
    weight_decay: float = option(1e-4, ge=0)
    betas: list[float] = option([0.9, 0.999], ge=0, lt=1)
    momentum: float = option(0.9, ge=0, lt=1)
    head_lr_scale: float = option(1.0, gt=0)
    warmup_epochs: float = option(10.0, ge=0)
    warmup_lr: float = option(1e-6, ge=0)
    min_lr: float = option(1e-5, ge=0)
    clip_norm: float | None = option(None, gt=0)
    decay_vectors: bool = option(False, later=True)
    undecayed: list[str] = option([], later=True)
    eps: float = option(1e-8, gt=0, later=True)
    schedule: str = option("steps", choices=SCHEDULES, later=True)
    power: float = option(0.9, gt=0, later=True)
    average_mean: float | None = option(None, later=True)
    average_std: float = option(1.0, gt=0, later=True)

    def problems(self) -> list[str]:
        problems = []
        if self.schedule == "epochs" and self.warmup_epochs != int(self.warmup_epochs):
            problems.append(
                f"optim.schedule=epochs needs a whole number of optim.warmup_epochs, got {self.warmup_epochs:g}"
            )
        if self.schedule != "poly" and self.power != 0.9:
            problems.append(
                f"optim.power is of optim.schedule=poly, which is {self.schedule}; set it or leave power out"
            )
        if "" in self.undecayed:
            problems.append("optim.undecayed holds an empty word, which is in every name; leave it out")
        if len(self.betas) != 2:
            problems.append(f"optim.betas must hold two numbers, got {len(self.betas)}")
        if self.min_lr > self.lr:
            problems.append(
                f"optim.min_lr ({self.min_lr:g}) must not exceed optim.lr ({self.lr:g}); lower optim.min_lr"
            )
        if self.warmup_epochs > 0 and self.warmup_lr > self.lr:
            problems.append(
                f"optim.warmup_lr ({self.warmup_lr:g}) must not exceed optim.lr ({self.lr:g}); lower optim.warmup_lr"
            )
        return problems


@dataclass(frozen=True)
class TrainSpec(Spec):
    """How long, on what batches, with which augmentation and in which precision a model is trained.

    `mixup` and `cutmix` are the alphas of their Beta distributions, 0 turns them off; `mix_prob` is the share of
    batches that are mixed. `erasing` is the share of images with an erased rectangle. `crop_padding` is in pixels.
    `zoom` is the range of `augment=scale_crop_flip` and `scale_rotate_flip`, or three values or more to choose from;
    `rotation` the most degrees either way of the latter, `cat_max_ratio` the share of a window that no class may fill
    in the former. `photometric` also changes brightness, contrast, saturation and hue.
    `compile` compiles each block of the network, which changes round-off. `recompute` computes each block a second time
    in the backward pass instead of keeping what that needs: less memory, more time, the same bits. `frozen_bf16` holds
    frozen matrices and convolutions in bfloat16, as a bf16 step reads them anyway; a method that computes with frozen
    weights sees them rounded. `last_block=read` runs the last block, behind its attention, for the tokens that are
    read alone, in training and evaluation, which changes round-off and which masks dropout draws.
    `head_dropout` is the share of the pooled features that the head of a classifier drops in training.
    `draw_frames` takes other frames out of a clip's file in every epoch, by the dataset's rule for sampling.
    `augment=whole_rrc_flip` is the random resized crop of whole pictures, as they are read, where `rrc_flip` cuts from
    the prepared square; `jitter_flip` cuts a random square where the short side is between the two `short_side` times
    the size; `scales_flip` cuts one of several shapes at one of thirteen places (`data.pixels.changes`). `rand_ops` is
    how many of RandAugment's operations come ahead, `rand_magnitude` how strong they are (`cells.rand_augment`).
    """

    section: ClassVar[str] = "train"

    epochs: int = option(100, ge=1, le=100_000)
    batch_size: int = option(64, ge=1)
    accumulate: int = option(1, ge=1)
    precision: str = option("fp32", choices=PRECISIONS)
    label_smoothing: float = option(0.0, ge=0, lt=1)
    drop_path: float = option(0.0, ge=0, lt=1)
    mixup: float = option(0.0, ge=0)
    cutmix: float = option(0.0, ge=0)
    mix_prob: float = option(1.0, ge=0, le=1)
    augment: str = option("none", choices=AUGMENTS)
    crop_padding: int = option(4, ge=1)
    erasing: float = option(0.0, ge=0, le=1)
    cache_features: bool = option(True)
    compile: bool = option(False)
    keep_last_batch: bool = option(True)
    select: str = option("last", choices=SELECTIONS)
    eval_batch_size: int = option(256, ge=1)
    zoom: list[float] = option([0.5, 2.0], gt=0, later=True)
    photometric: bool = option(False, later=True)
    recompute: bool = option(False, later=True)
    frozen_bf16: bool = option(False, later=True)
    last_block: str = option("all", choices=LAST_BLOCKS, later=True)
    draw_frames: bool = option(False, later=True)
    head_dropout: float = option(0.0, ge=0, lt=1, later=True)
    rotation: float = option(20.0, ge=0, le=180, later=True)
    cat_max_ratio: float = option(1.0, gt=0, le=1, later=True)
    short_side: list[float] = option([1.0, 1.15], ge=1, le=8, later=True)
    rand_ops: int = option(0, ge=0, le=15, later=True)
    rand_magnitude: int = option(7, ge=0, le=10, later=True)

    def problems(self) -> list[str]:
        problems = []
        if len(self.zoom) < 2 or self.zoom != sorted(self.zoom):
            problems.append(f"train.zoom must hold two numbers or more, the smallest first, got {self.zoom}")
        if len(self.short_side) != 2 or self.short_side != sorted(self.short_side):
            problems.append(f"train.short_side must hold two numbers, the smaller first, got {self.short_side}")
        problems += [
            f"train.{name}={getattr(self, name)} is of {use}; set that, or leave it out"
            for name, use, used in (
                ("short_side", "train.augment=jitter_flip", self.augment == "jitter_flip"),
                ("rotation", "train.augment=scale_rotate_flip", self.augment == "scale_rotate_flip"),
                ("rand_magnitude", "train.rand_ops above 0", self.rand_ops > 0),
            )
            if not used and getattr(self, name) != defaults_of(TrainSpec)[name]
        ]
        if self.cat_max_ratio < 1 and self.augment != "scale_crop_flip":
            problems.append(
                f"train.cat_max_ratio={self.cat_max_ratio:g} chooses among windows; set train.augment=scale_crop_flip"
            )
        if self.frozen_bf16 and self.precision != "bf16":
            problems.append(
                f"train.frozen_bf16=true is for bf16, train.precision is {self.precision}; set train.precision=bf16"
            )
        if self.recompute and self.compile:
            problems.append(
                "train.recompute and train.compile exclude each other, since compiled blocks choose what they keep; "
                "set one of them to false"
            )
        return problems

    @property
    def reads_anew(self) -> bool:
        """Whether pictures are read again in every epoch."""
        return self.augment in CUT_WHILE_READ or self.rand_ops > 0 or self.draw_frames


def schedule_problems(optim: OptimSpec, train: TrainSpec) -> list[str]:
    """Problems between the two sections, for the check that reports every problem of a configuration at once."""
    problems = []
    if optim.average_mean is not None and train.select != "last":
        problems.append(
            f"optim.average_mean is of all epochs and train.select={train.select} takes one; set train.select=last"
        )
    if optim.warmup_epochs >= train.epochs:
        warmup, epochs = f"optim.warmup_epochs ({optim.warmup_epochs:g})", f"train.epochs ({train.epochs})"
        problems.append(f"{warmup} must be smaller than {epochs}; lower optim.warmup_epochs or raise train.epochs")
    return problems
