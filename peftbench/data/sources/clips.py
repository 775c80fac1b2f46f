"""Clips of one's own or of a published set: video files, or folders of frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, ClipSpec, Source
from peftbench.data.clips import listings
from peftbench.data.clips.decode import decoder, folder_frames, video_frames
from peftbench.data.clips.listings import Clip, Clips
from peftbench.data.clips.sampling import SAMPLINGS, frames_for_evaluation, frames_for_training
from peftbench.data.parts import VAL_PERCENT, PartsSource, class_notes
from peftbench.data.raw import ClipSplit
from peftbench.data.sources.image_lists import refuse_outside
from peftbench.data.sources.labels import refuse_one_class
from peftbench.foundation.digests import digests_of
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from PIL.Image import Image

# Part of every revision: change it when other frames or squares are taken, or other clips validate.
VERSION = 2
FORMS = ("own", "ucf101", "hmdb51", "ssv2", "kinetics")


@dataclass(frozen=True)
class Taken:
    """Which frames of a file a clip is: see `data.clips.sampling`."""

    frames: int
    sampling: str
    stride: int
    template: str
    first: int
    # stretch `view` of `views` in evaluation
    view: int = 0
    views: int = 1

    def chosen(self, num_frames: int, moments: Sequence[float] | None = None) -> list[int]:
        """For evaluation, or with `moments` (one a frame, in [0, 1)) a random choice for training."""
        if moments is not None:
            return frames_for_training(self.sampling, num_frames, self.frames, self.stride, moments)
        return frames_for_evaluation(self.sampling, num_frames, self.frames, self.stride, self.view, self.views)

    def name(self, index: int) -> str:
        return self.template.format(self.first + index)


@DATASETS.add("clips")
@dataclass(frozen=True)
class ClipFiles(ClipSpec):
    """Videos in `root`/train/CLASS and `root`/test/CLASS, or what lists name (`train_list`, `val_list`, `test_list`).

    A line of a list is `folder num_frames label` (frames are files `template` from number `first`) or `file label`, as
    in mmaction2; paths start at `root`, labels at 0, `class_list` has the names one a line. `form` reads the lists that
    a published set comes with from the folder `lists`, of `split` where there are several. A clip is `frames` frames,
    `sampling` uniform (one of each of as many segments) or every `stride`-th of a stretch: dense as ST-Adapter's code
    takes it, mmaction as mmaction2's and AIM's, videomae as AdaptFormer's. `mirrors`: whether a mirrored clip keeps its
    class, so that augmentation may mirror it.
    """

    root: str | None = option(None, location=True)
    form: str = option("own", choices=FORMS)
    lists: str | None = option(None, location=True)
    split: int = option(1, ge=1, le=3)
    train_list: str | None = option(None, location=True)
    val_list: str | None = option(None, location=True)
    test_list: str | None = option(None, location=True)
    class_list: str | None = option(None, location=True)
    title: str | None = option(None)
    frames: int = option(8, ge=2, le=128)
    sampling: str = option("uniform", choices=SAMPLINGS)
    stride: int = option(16, ge=1)
    template: str = option("img_{:05}.jpg")
    first: int = option(1, ge=0)
    mirrors: bool = option(True)
    split_seed: int = option(0, ge=0)

    def problems(self) -> Sequence[str]:
        try:
            names = {self.template.format(1), self.template.format(2)}
        except (LookupError, ValueError):
            names = set()
        if len(names) < 2 or any("/" in name or "\\" in name for name in names):
            return [f"dataset.template must name one file a frame, such as img_{{:05}}.jpg, got {self.template}"]
        if (self.train_list is None) != (self.test_list is None) or (self.val_list and not self.train_list):
            return ["dataset.train_list and dataset.test_list go together, dataset.val_list may be added"]
        if self.form == "ssv2" and self.mirrors:
            return ["dataset.form=ssv2 has classes that know left from right; set dataset.mirrors=false"]
        return ()

    @property
    def label(self) -> str:
        name = self.title or (self.form if self.form != "own" else self._root().name if self.root else "clips")
        split = f"_split{self.split}" if self.form in ("ucf101", "hmdb51") else ""
        stride = "" if self.sampling == "uniform" else f"s{self.stride}"
        taken = "" if self.frames == 8 and not stride else f"_t{self.frames}{stride}"
        return name + split + taken + (f"_{self.sampling}" if self.sampling in ("mmaction", "videomae") else "")

    @property
    def taken(self) -> Taken:
        return Taken(self.frames, self.sampling, self.stride, self.template, self.first)

    def _root(self) -> Path:
        return user_path(self.root or "", "dataset.root").absolute()

    @cached_property
    def _clips(self) -> Clips:
        if self.root is None:
            raise MissingInput(
                "set dataset.root=<folder with train/CLASS and test/CLASS of videos>, or name lists (docs/video.md).",
                instead="dataset=moving_shapes needs no files.",
                same_line=True,
            )
        root = self._root()
        if not root.is_dir():
            raise MissingInput(f"dataset.root={self.root}: there is no such folder")
        if self.form == "own":
            named = {"train": self.train_list, "val": self.val_list, "test": self.test_list}
            lists = {part: user_path(path, f"dataset.{part}_list") for part, path in named.items() if path}
            if not lists:
                return listings.from_folders(root)
            classes = None if self.class_list is None else user_path(self.class_list, "dataset.class_list")
            return listings.from_lists(lists, classes)
        folder = root if self.lists is None else user_path(self.lists, "dataset.lists")
        if self.form == "ucf101":
            return listings.from_ucf101(folder, self.split)
        if self.form == "hmdb51":
            return listings.from_hmdb51(folder, self.split)
        return listings.from_ssv2(folder) if self.form == "ssv2" else listings.from_kinetics(folder, root)

    def _list_files(self) -> list[Path]:
        named = (self.lists, self.train_list, self.val_list, self.test_list, self.class_list)
        return [user_path(path, "dataset") for path in named if path]

    def inputs(self) -> list[Path] | None:
        # a folder of frames may change in any of its files
        if any(clip.num_frames for clips in self._clips.parts.values() for clip in clips):
            return None
        root = self._root()
        files = [root / path for path in listings.all_paths(self._clips.parts.values())]
        return [root, *dict.fromkeys(path.parent for path in files), *self._list_files(), *files]

    def places(self) -> list[Path]:
        return [self._root()]

    def revision(self) -> str:
        root, digest = self._root(), hashlib.sha256(f"clips-v{VERSION}\n".encode())
        for part, clips in self._clips.parts.items():
            _check(root, clips, self.taken)
            for clip in clips:
                digest.update(
                    f"{part}\n{clip.path}\n{clip.num_frames}\n{clip.label}\n".encode("utf-8", "surrogateescape")
                )
            digest.update(b"".join(digests_of(_files(root, clips, self.taken))))
        return digest.hexdigest()

    def check(self) -> None:
        for clips in self._clips.parts.values():
            _check(self._root(), clips, self.taken)

    def open(self) -> Source:
        root, found = self._root(), self._clips
        refuse_one_class(self.label, found.class_names)
        self.check()
        _refuse_shared(self.label, found)
        if any(clip.num_frames is None for clips in found.parts.values() for clip in clips):
            decoder()
        parts = dict(found.parts)
        if "val" not in parts and all(clip.group for clip in parts["train"]):
            # clips of one recording look alike: what chooses must not have seen its like
            kept, held = listings.hold_out(parts["train"], VAL_PERCENT, self.split_seed)
            parts |= {"train": kept, "val": held} if held else {}
        splits = {part: ClipFileSplit(root, clips, self.taken) for part, clips in parts.items()}
        return ClipSource.of(
            splits,
            found.test,
            class_names=found.class_names,
            pixels="original",
            notes=tuple(class_notes(self.label, found.class_names, {part: s.labels for part, s in splits.items()})),
            seed=self.split_seed,
            mirror=self.mirrors,
        )


@dataclass(frozen=True)
class ClipSource(PartsSource):
    """`PartsSource` of clips."""

    mirror: bool

    @property
    def mirrors(self) -> bool:
        return self.mirror


class ClipFileSplit(ClipSplit):
    """Listed clips below `root`, in order."""

    draws_frames = True

    def __init__(self, root: Path, clips: Sequence[Clip], taken: Taken) -> None:
        self.root, self.clips, self.taken, self.frames = root, tuple(clips), taken, taken.frames
        self.labels = np.array([clip.label for clip in clips], dtype=np.int64)
        self.grouped = all(clip.group for clip in clips)

    def content_digest(self) -> str:
        files = b"".join(digests_of(_files(self.root, self.clips, self.taken)))
        counts = [clip.num_frames for clip in self.clips]
        which = f"{self.taken.frames}:{self.taken.sampling}:{self.taken.stride}:{counts}"
        if self.taken.views > 1:
            which += f":{self.taken.view} of {self.taken.views}"
        return hashlib.sha256(which.encode() + files).hexdigest()

    def read_clip(self, index: int, moments: np.ndarray | None = None) -> list[Image]:
        clip = self.clips[index]
        path = self.root / clip.path
        choose = partial(self.taken.chosen, moments=None if moments is None else moments.tolist())
        if clip.num_frames is None:
            return video_frames(path, choose)
        return folder_frames(path, self.taken.name, clip.num_frames, choose)

    def unshown(self, index: int) -> Iterable[Image]:
        clip = self.clips[index]
        if clip.num_frames is None:
            # of a video all frames are decoded whichever are shown
            return
        for frame in sorted(set(range(clip.num_frames)) - set(self.taken.chosen(clip.num_frames))):
            yield from folder_frames(self.root / clip.path, self.taken.name, clip.num_frames, partial(_only, frame))

    def stretch(self, number: int, views: int) -> ClipFileSplit:
        if views > 1 and self.taken.sampling == "uniform":
            words = f"protocol.views={views}: dataset.sampling=uniform spreads one clip over the whole video"
            raise ConfigError([f"{words}; set protocol.views=1 or dataset.sampling=dense"])
        return ClipFileSplit(self.root, self.clips, replace(self.taken, view=number, views=views))

    def take(self, rows: np.ndarray) -> ClipFileSplit:
        return ClipFileSplit(self.root, [self.clips[row] for row in rows.tolist()], self.taken)

    def describe(self, index: int) -> str:
        return str(self.root / self.clips[index].path)


def _only(frame: int, num_frames: int) -> list[int]:
    """That frame alone, whatever there is."""
    return [frame]


def _files(root: Path, clips: Sequence[Clip], taken: Taken) -> list[Path]:
    """The files that the clips are made from: whole videos, and all frames of folders."""
    files = []
    for clip in clips:
        place = root / clip.path
        files += [place] if clip.num_frames is None else [place / taken.name(index) for index in range(clip.num_frames)]
    return files


def _check(root: Path, clips: Sequence[Clip], taken: Taken) -> None:
    """Raises `BadInput` for videos and frames that are missing or empty, naming the first."""
    inside = str(root.resolve())
    missing, empty = [], []
    for clip in clips:
        place = root / clip.path
        refuse_outside(place, inside)
        if clip.num_frames is None:
            if not place.is_file():
                missing.append(clip.path)
            elif place.stat().st_size == 0:
                empty.append(clip.path)
        elif not (place / taken.name(clip.num_frames - 1)).is_file():
            last = taken.name(clip.num_frames - 1)
            missing.append(f"{clip.path}/{last} (the last of {clip.num_frames} listed frames)")
    for names, what in ((missing, "are missing"), (empty, "are empty (0 bytes)")):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise BadInput(
                f"{root}: {len(names)} of {len(clips)} clips {what}: {shown}; copy them again or take them off the list"
            )


def _refuse_shared(label: str, clips: Clips) -> None:
    seen: dict[str, str] = {}
    for part, found in clips.parts.items():
        for path in dict.fromkeys(clip.path for clip in found):
            if path in seen:
                raise BadInput(
                    f"{label}: {path} is listed in both {seen[path]} and {part}; the splits must not share clips"
                )
            seen[path] = part
