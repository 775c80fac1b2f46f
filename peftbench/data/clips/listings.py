"""Which clips there are: list files, class folders of videos, the official lists of UCF101, HMDB51, SSv2, Kinetics."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from peftbench.data.sources.folder import sorted_classes
from peftbench.data.sources.image_lists import path_problem, read_json, read_text, shortened
from peftbench.data.sources.own_files import folders_of_parts
from peftbench.data.tfds_order import hash_order
from peftbench.foundation.entries import entries_in, matching
from peftbench.foundation.errors import BadInput

T = TypeVar("T")

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".mpg", ".mpeg", ".m4v")
_LIST_FORM = "'folder num_frames label' for frames, 'file label' for videos"


@dataclass(frozen=True)
class Clip:
    """One listed clip: `path` from the root; `num_frames` of a folder of frames, None of a video file; its class.

    Clips of one `group` were cut from one recording; "" where that is not known.
    """

    path: str
    num_frames: int | None
    label: int
    group: str = ""


@dataclass(frozen=True)
class Clips:
    """`parts`: `train`, `test` and perhaps `val`. `test`: whose test list it is, `official` or `own`."""

    class_names: tuple[str, ...]
    parts: dict[str, tuple[Clip, ...]]
    test: str = "own"


def from_lists(lists: dict[str, Path], class_names: Path | None) -> Clips:
    """Lists of mmaction2's forms, labels from 0; names of the classes, one a line, or their numbers."""
    parts = {part: _lines(path, _clip, f"; a line is {_LIST_FORM}") for part, path in lists.items()}
    count = 1 + max(clip.label for clips in parts.values() for clip in clips)
    names = tuple(map(str, range(count)))
    if class_names is not None:
        names = tuple(line.strip() for line in read_text(class_names).splitlines() if line.strip())
        if len(names) < count:
            raise BadInput(f"{class_names}: {len(names)} names, and the lists have labels up to {count - 1}")
    return Clips(names, parts)


# a name and a number, apart by blanks or a comma
_NUMBERED = re.compile(r"(.+?)(?:\s*,\s*|\s+)(\d+)")


def _clip(line: str) -> Clip:
    found = _NUMBERED.fullmatch(line)
    if not found:
        raise ValueError(f"no label at the end of '{line[:80]}'")
    name, label = found.groups()
    frames = None
    if not name.lower().endswith(VIDEO_SUFFIXES):
        found = _NUMBERED.fullmatch(name)
        if not found or int(found[2]) < 1:
            raise ValueError(f"neither a video file nor a folder with its number of frames in '{line[:80]}'")
        name, frames = found[1], int(found[2])
    return Clip(_inside(name), frames, int(label))


def _inside(name: str) -> str:
    if problem := path_problem(name):
        raise ValueError(problem)
    return name


def from_folders(root: Path) -> Clips:
    """root/train/CLASS/*.mp4, root/test/CLASS/*.mp4 and perhaps root/val/CLASS/*.mp4."""
    named = folders_of_parts(root, [entry.name for entry in _folders(root)])
    top = {part: root / folder for part, folder in named.items()}
    if "train" not in top or "test" not in top:
        raise BadInput(
            f"{root}: no train/ and test/ with class folders of videos; or name lists with dataset.train_list="
        )
    names = sorted_classes({entry.name for part in top.values() for entry in _folders(part)})
    order = {name: number for number, name in enumerate(names)}
    parts: dict[str, tuple[Clip, ...]] = {}
    for part in ("train", "val", "test"):
        if part in top:
            parts[part] = tuple(
                Clip(f"{top[part].name}/{folder.name}/{file}", None, order[folder.name])
                for folder in _folders(top[part])
                for file in (entry.name for entry in entries_in(folder))
                if file.lower().endswith(VIDEO_SUFFIXES) and file[0] != "."
            )
            if not parts[part]:
                raise BadInput(f"{top[part]}: no videos in its class folders (names end in .mp4, .webm, .avi, ...)")
    return Clips(tuple(names), parts)


def _folders(place: Path) -> list[Path]:
    return [entry for entry in entries_in(place) if entry.is_dir() and entry.name[0] != "."]


# of the names of UCF101 (the recording) and of HMDB51 (what follows the name of the recording)
_UCF101_GROUP = re.compile(r"_(g\d+)_c\d+\.")
_HMDB51_CLIP = re.compile(r"(_[a-z]+){2}_np\d+(_[a-z]+){2}_\d+\.\w+$")


def from_ucf101(lists: Path, split: int) -> Clips:
    """`classInd.txt`, `trainlist0N.txt` (file and label from 1) and `testlist0N.txt` (file) of UCF101."""
    names = _lines(lists / "classInd.txt", _named, "; a line is 'number class'")
    order = {name: number for number, name in enumerate(names)}

    def clip(line: str) -> Clip:
        path = _inside(line.split()[0])
        name = path.partition("/")[0]
        if name not in order:
            raise ValueError(f"the class of '{path[:80]}' is not in classInd.txt")
        group = _UCF101_GROUP.search(path)
        return Clip(path, None, order[name], f"{name} {group[1]}" if group else path)

    parts = {part: _lines(lists / f"{part}list{split:02d}.txt", clip) for part in ("train", "test")}
    return Clips(names, parts, "official")


def _named(line: str) -> str:
    _, *names = line.split(maxsplit=1)
    if not names:
        raise ValueError(f"no class behind its number in '{line[:80]}'")
    return names[0]


def from_hmdb51(lists: Path, split: int) -> Clips:
    """`CLASS_test_splitN.txt` of HMDB51, lines `file id`: id 1 trains, 2 tests, 0 is not used."""
    found = list(matching(lists, f"*_test_split{split}.txt"))
    if not found:
        raise BadInput(f"{lists}: no list CLASS_test_split{split}.txt of HMDB51")
    names = tuple(path.name.removesuffix(f"_test_split{split}.txt") for path in found)
    parts: dict[str, list[Clip]] = {"train": [], "test": []}
    for label, (path, name) in enumerate(zip(found, names, strict=True)):
        for file, use in _lines(path, _used, "; a line is 'file id'"):
            if use != "0":
                group = f"{name} {_HMDB51_CLIP.sub('', file)}"
                parts["train" if use == "1" else "test"].append(Clip(f"{name}/{file}", None, label, group))
    for part, clips in parts.items():
        if not clips:
            raise BadInput(f"{lists}: no clip of the lists of split {split} is for {part}ing")
    return Clips(names, {part: tuple(clips) for part, clips in parts.items()}, "official")


def _used(line: str) -> tuple[str, str]:
    name, *use = line.rsplit(maxsplit=1)
    if not use or use[0] not in ("0", "1", "2"):
        raise ValueError(f"no id 0, 1 or 2 at the end of '{line[:80]}'")
    return _inside(name), use[0]


def hold_out(clips: Sequence[Clip], percent: int, seed: int) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """`clips` and, taken out of them, about `percent` of every class for validation, whole groups at a time.

    At least one group of a class stays, so that a class of one group gives none.
    """
    classes: dict[int, dict[str, int]] = {}
    for clip in clips:
        groups = classes.setdefault(clip.label, {})
        groups[clip.group] = groups.get(clip.group, 0) + 1
    held: set[tuple[int, str]] = set()
    for label, groups in sorted(classes.items()):
        names = sorted(groups)
        taken = 0
        for place in hash_order(f"groups-seed{seed}:", names)[:-1].tolist():
            if 100 * taken >= percent * sum(groups.values()):
                break
            held.add((label, names[place]))
            taken += groups[names[place]]
    kept = tuple(clip for clip in clips if (clip.label, clip.group) not in held)
    return kept, tuple(clip for clip in clips if (clip.label, clip.group) in held)


def from_ssv2(lists: Path) -> Clips:
    """`labels.json`, `train.json` and `validation.json` of Something-Something V2; videos are `ID.webm`.

    Its test labels are hidden: validation is what every paper tests on.
    """
    path = _first(lists, "labels.json", "something-something-v2-labels.json")
    try:
        order = {str(name): int(number) for name, number in read_json(path).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: no classes with their numbers ({error}); copy it again") from error
    if sorted(order.values()) != list(range(len(order))):
        raise BadInput(f"{path}: the numbers of its {len(order)} classes are not 0 to {len(order) - 1}; copy it again")

    def clips(*names: str) -> tuple[Clip, ...]:
        path = _first(lists, *names)
        try:
            return tuple(
                Clip(_inside(f"{int(row['id'])}.webm"), None, order[re.sub(r"[\[\]]", "", row["template"])])
                for row in read_json(path)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path}: a row without id or template, or with a template not in the labels ({error})"
            ) from error

    parts = {
        "train": clips("train.json", "something-something-v2-train.json"),
        "test": clips("validation.json", "something-something-v2-validation.json"),
    }
    return Clips(tuple(sorted(order, key=lambda name: order[name])), parts, "official")


def from_kinetics(lists: Path, root: Path) -> Clips:
    """`train.csv` and `val.csv` or `validate.csv` of Kinetics: label, youtube_id, time_start, time_end.

    Absent videos are left out.
    A video is CLASS/ID_START_END.mp4 or the same without its class, times of six digits, below train/ and val/.
    """
    files = {"train": lists / "train.csv", "test": _first(lists, "val.csv", "validate.csv")}
    rows = {part: _rows(file) for part, file in files.items()}
    names = sorted({row["label"] for found in rows.values() for row in found})
    order = {name: number for number, name in enumerate(names)}
    parts = {}
    for part, folder in (("train", "train"), ("test", "val")):
        clips = []
        for row in rows[part]:
            file = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"
            places = (
                f"{folder}/{row['label']}/{file}",
                f"{folder}/{row['label'].replace(' ', '_')}/{file}",
                f"{folder}/{file}",
            )
            here = next((place for place in places if (root / place).is_file()), None)
            if here is not None:
                clips.append(Clip(here, None, order[row["label"]]))
        if not clips:
            raise BadInput(f"{root}: none of the {len(rows[part])} videos of {files[part]} is there, e.g. {places[0]}")
        parts[part] = tuple(clips)
    listed = {part: len(found) for part, found in rows.items()}
    return Clips(tuple(names), parts, f"official-of-{listed['test']}")


def _rows(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(read_text(path).splitlines()))
    wanted = ("label", "youtube_id", "time_start", "time_end")
    if not rows or any(not row.get(key) for row in rows for key in wanted):
        raise BadInput(f"{path}: every row needs {', '.join(wanted)}")
    if any(not row[key].isdecimal() for row in rows for key in wanted[2:]):
        raise BadInput(f"{path}: time_start and time_end are whole seconds")
    for row in rows:
        if problem := path_problem(f"{row['label']}/{row['youtube_id']}"):
            raise BadInput(f"{path}: {problem}")
    return rows


def _lines(path: Path, read: Callable[[str], T], form: str = "") -> tuple[T, ...]:
    """What `read` makes of each line that is not empty. Raises `BadInput` with what it says of the first bad ones."""
    found, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            try:
                found.append(read(line.strip()))
            except (ValueError, LookupError) as error:
                problems.append(f"line {number}: {error}")
    if problems or not found:
        raise BadInput(f"{path}: {shortened(problems) or 'no clip is listed'}{form}")
    return tuple(found)


def _first(folder: Path, *names: str) -> Path:
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def all_paths(parts: Iterable[Iterable[Clip]]) -> list[str]:
    """Every listed path once."""
    return list(dict.fromkeys(clip.path for clips in parts for clip in clips))
