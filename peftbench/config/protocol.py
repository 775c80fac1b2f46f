"""How a number is made: which images are trained on, what is done to them, which epoch counts, what is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from peftbench.data.ready import View
from peftbench.foundation.spec import Spec, option

NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

# training split -> the splits that share no image with it and may choose hyperparameters for it
VALIDATES: dict[str, tuple[str, ...]] = {
    "train800": ("val200",),
    "train800val200": (),
    "train": ("val",),
    "trainval": (),
    "fewshot": ("fewshot_val",),
}

# training split of a reported run -> the training and validation splits that choose its hyperparameters
TUNED_ON: dict[str, tuple[str, str]] = {
    "train800": ("train800", "val200"),
    "train800val200": ("train800", "val200"),
    "train": ("train", "val"),
    "trainval": ("train", "val"),
    "fewshot": ("fewshot", "fewshot_val"),
}


@dataclass(frozen=True)
class ProtocolSpec(Spec):
    """Splits, image transform and normalisation: what a leaderboard never mixes.

    `normalise` and `interpolation` may say `model`: what the backbone was pretrained with. Published numbers on the
    same weights differ by these two alone, so they are named and recorded. The test split is read once, after
    training; there is no way to choose anything on it.

    `train_split` and `val_split` name what the dataset serves: VTAB's 800 and 200, all images there are, or `shots`
    images of every class, drawn by `shots_seed` (null: by the cell's seed, so that repetitions are new draws). `draw`
    is the order they are drawn in: nested over shots, or as CoOp does.

    `canvas`, for tasks that predict maps: the side in px of the pictures from which training cuts windows of the
    backbone's size, and over which evaluation slides them; null shows the backbone whole pictures. `test_scales` and
    `test_flip`, for the same tasks: the last evaluation averages what the model says of pictures resized by each of
    these, and of mirrored ones ("MS + flip"); the epoch is chosen without.

    `views` and `crops`, for clips: a test clip is shown as that many stretches in time, each cut at that many places
    along its longer side (3: both ends and the middle). What the model says of them is averaged as `view_average` says:
    `probabilities` (ST-Adapter's and AIM's code) or `logits` (AdaptFormer's).
    """

    section: ClassVar[str] = "protocol"

    title: str = option("vtab1k")
    version: int = option(1, ge=1)
    train_split: str = option("train800val200", choices=lambda: list(VALIDATES))
    val_split: str | None = option(None, choices=("val200", "val", "fewshot_val"))
    report_test: bool = option(True)
    resize: str = option("squash", choices=("squash", "crop", "squash_crop"))
    crop_pct: float = option(1.0, gt=0, le=1)
    interpolation: str = option("model", choices=("model", "bicubic", "bilinear"))
    antialias: bool = option(True)
    normalise: str = option("model", choices=("model", *NORMALISATIONS))
    # evaluate with the method folded into plain modules, where that is exact
    merge: bool = option(False)
    shots: int | None = option(None, ge=1, later=True)
    shots_seed: int | None = option(None, ge=0, later=True)
    draw: str = option("nested", choices=("nested", "coop"), later=True)
    canvas: int | None = option(None, ge=16, le=4096, later=True)
    views: int = option(1, ge=1, le=30, later=True)
    crops: int = option(1, ge=1, le=3, later=True)
    view_average: str = option("probabilities", choices=("probabilities", "logits"), later=True)
    test_scales: list[float] = option([1.0], gt=0, le=4, later=True)
    test_flip: bool = option(False, later=True)

    def problems(self) -> Sequence[str]:
        problems = []
        if self.val_split is not None and self.val_split not in VALIDATES[self.train_split]:
            apart = [train for train, vals in VALIDATES.items() if self.val_split in vals]
            problems.append(
                f"protocol.val_split={self.val_split} does not go with protocol.train_split="
                f"{self.train_split}; train on {' or '.join(apart)} instead"
            )
        if (self.train_split == "fewshot") != (self.shots is not None):
            problems.append(
                "protocol.shots and protocol.train_split=fewshot go together: protocol=fewshot protocol.shots=4"
            )
        if self.draw != "nested" and self.shots is None:
            problems.append(f"protocol.draw={self.draw} is of a few-shot draw: protocol=fewshot_coop protocol.shots=16")
        if self.crops == 2:
            problems.append("protocol.crops must be 1 (the middle) or 3 (the middle and both ends), got 2")
        if self.crops > 1 and self.resize != "crop":
            problems.append("protocol.crops=3 cuts along a clip's longer side, which needs protocol.resize=crop")
        if not self.test_scales or len(set(self.test_scales)) < len(self.test_scales):
            problems.append(f"protocol.test_scales must hold each scale once and at least one, got {self.test_scales}")
        if self.val_split is None and not self.report_test:
            problems.append("protocol.report_test=false without protocol.val_split would measure nothing")
        return problems

    @property
    def test_views(self) -> list[View]:
        """What of each test sample is shown, one after the other."""
        places = (0.5,) if self.crops == 1 else (0.0, 0.5, 1.0)
        return [View(number, self.views, place) for number in range(self.views) for place in places]

    @property
    def several_looks(self) -> bool:
        """Whether the last evaluation looks at a picture in another way than the ones before."""
        return self.test_flip or self.test_scales != [1.0]

    def drawn(self, seed: int) -> tuple[int, str, str]:
        """The seed of the few-shot draw in a cell with `seed`, the name of the draw in records, and its order."""
        by = "peftbench" if self.draw == "nested" else self.draw
        if self.shots_seed is None:
            return seed, f"few-shot:{by}-cell-seed", self.draw
        return self.shots_seed, f"few-shot:{by}-seed{self.shots_seed}", self.draw

    def pixel_statistics(
        self, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and std to normalise with, given those of the backbone."""
        return (mean, std) if self.normalise == "model" else NORMALISATIONS[self.normalise]
