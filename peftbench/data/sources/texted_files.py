"""Images with captions in Karpathy's form, and the questions of VQA v2, as files."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.base import DATASETS, DatasetSpec, Source
from peftbench.data.parts import PartsSource
from peftbench.data.raw import RawSplit
from peftbench.data.sources.image_lists import (
    ImageList,
    listed_files,
    lists_digest,
    path_problem,
    read_json,
    sizes_of_all,
)
from peftbench.data.splits import FileSplit
from peftbench.data.texted import (
    ANNOTATORS,
    ANSWERS,
    CAPTIONS,
    ONE_CLASS,
    TextedSplit,
    Texts,
    answer_numbers,
    plain_answer,
)
from peftbench.data.tfds_order import hash_order
from peftbench.foundation.errors import BadInput, MissingInput, brief
from peftbench.foundation.location import user_path
from peftbench.foundation.spec import option

TRAIN, VAL, TEST = "train", "val", "test"


@dataclass(frozen=True)
class Part:
    """One part of a data set: the path of each image, its texts, and what annotators answered."""

    paths: tuple[str, ...]
    texts: Texts
    answers: Texts = ()


@dataclass(frozen=True)
class TextedFiles(DatasetSpec):
    """Base of images with texts. `root`: the folder where image paths start; `title`: what tables print."""

    root: str | None = option(None, location=True)
    title: str | None = option(None)
    split_seed: int = option(0, ge=0)

    @abstractmethod
    def read_parts(self) -> dict[str, Part]:
        """Train, test and perhaps val. Raises `MissingInput` or `BadInput`."""

    def parts(self) -> dict[str, Part]:
        """The same, read once for each state of the files: those of VQA v2 have hundreds of megabytes."""
        return _parts_of(self, tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in self._files()))

    @abstractmethod
    def vocabulary(self, parts: dict[str, Part]) -> tuple[str, ...]:
        """The names of the classes: what questions are answered with."""

    @property
    def label(self) -> str:
        return self.title or self.name

    @property
    def group(self) -> str:
        return "other"

    def folder(self) -> Path:
        found = user_path(self.root, "dataset.root") if self.root else None
        if found is None or not found.is_dir():
            raise MissingInput(f"set dataset.root to the folder where the images of dataset={self.name} lie")
        return found

    def revision(self) -> str:
        parts = self.parts()
        words = json.dumps([[name, part.texts, part.answers] for name, part in parts.items()])
        images = lists_digest(self.folder(), _lists(parts))
        return hashlib.sha256(f"{images}{words}".encode()).hexdigest()

    def inputs(self) -> list[Path]:
        return [*self._files(), *listed_files(self.folder(), _lists(self.parts()))]

    def places(self) -> list[Path]:
        return [self.folder(), *self._files()]

    def check(self) -> None:
        sizes_of_all(self.folder(), _lists(self.parts()))

    def _files(self) -> list[Path]:
        """What is read beside the images."""
        return []

    def open(self) -> Source:
        folder, parts = self.folder(), self.parts()
        sizes_of_all(folder, _lists(parts))
        names = self.vocabulary(parts)
        splits: dict[str, RawSplit] = {name: _split(folder, part, names) for name, part in parts.items()}
        read = CAPTIONS if names == ONE_CLASS else ANSWERS
        return TextedFilesSource.of(
            splits, "own", class_names=names, pixels="original", notes=(), seed=self.split_seed, read=read
        )


@lru_cache(maxsize=2)
def _parts_of(dataset: TextedFiles, changed: tuple[int, ...]) -> dict[str, Part]:
    return dataset.read_parts()


@dataclass(frozen=True)
class TextedFilesSource(PartsSource):
    """`read`: the target. Texts may know left from right."""

    read: str

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.read,)

    @property
    def mirrors(self) -> bool:
        return False


def _split(folder: Path, part: Part, names: tuple[str, ...]) -> TextedSplit:
    answers = answer_numbers(part.answers, names) if part.answers else None
    # of a question the first known answer, for draws by class
    labels = (
        np.zeros(len(part.paths), np.int64) if answers is None else answers.max(axis=1).clip(min=0).astype(np.int64)
    )
    return TextedSplit(FileSplit([folder / path for path in part.paths], labels), part.texts, answers)


def _lists(parts: dict[str, Part]) -> dict[str, ImageList]:
    return {name: ImageList(part.paths, np.zeros(len(part.paths), np.int64)) for name, part in parts.items()}


@DATASETS.add("captions")
@dataclass(frozen=True)
class Captions(TextedFiles):
    """Images with captions listed in `path` as Karpathy's splits are: `dataset_coco.json`, `dataset_flickr30k.json`.

    That is {"images": [{"filename", "filepath" (where there is one), "split", "sentences": [{"raw"}]}]}, `split` being
    train, val or test, and restval for COCO's images that train as well.
    """

    path: str | None = option(None, location=True)

    def _files(self) -> list[Path]:
        if not self.path:
            raise MissingInput("set dataset.path to a list in Karpathy's form, such as dataset_flickr30k.json")
        return [user_path(self.path, "dataset.path")]

    def vocabulary(self, parts: dict[str, Part]) -> tuple[str, ...]:
        return ONE_CLASS

    def read_parts(self) -> dict[str, Part]:
        (file,) = self._files()
        images = _read(file, "images")
        rows: dict[str, list[tuple[str, tuple[str, ...]]]] = {TRAIN: [], VAL: [], TEST: []}
        for number, image in enumerate(images):
            place = f"{file}: image {number}"
            name = "/".join(filter(None, [_word(image, "filepath", place, ""), _word(image, "filename", place)]))
            if problem := path_problem(name):
                raise BadInput(f"{place}: {problem}")
            split = {"restval": TRAIN}.get(_word(image, "split", place), image["split"])
            if split not in rows:
                raise BadInput(f"{place}: its split is '{brief(split)}'; it must be train, restval, val or test")
            said = image.get("sentences")
            if not isinstance(said, list) or not said:
                raise BadInput(f"{place}: it has no sentences")
            rows[split].append((name, tuple(_word(sentence, "raw", place) for sentence in said)))
        for needed in (TRAIN, TEST):
            if not rows[needed]:
                raise BadInput(f"{file}: no image is in the split {needed}")
        return {name: Part(*map(tuple, zip(*found, strict=True))) for name, found in rows.items() if found}


@DATASETS.add("questions")
@dataclass(frozen=True)
class Questions(TextedFiles):
    """VQA v2 (Goyal et al., CVPR 2017) in `root` as it is published: its files of questions and annotations, and the
    images in train2014 and val2014.

    Trained on train2014, of whose images a tenth validates, tested on val2014 (test-dev has no public answers). The
    vocabulary is every answer that `least` training questions have as their most frequent one; questions without
    any are left out of training, and count as wrong in the test.
    """

    least: int = option(9, ge=1)

    def _files(self) -> list[Path]:
        years = ("train2014", "val2014")
        names = [f"v2_{kind}_{year}_{what}.json" for year in years for kind, what in _KINDS]
        return [self.folder() / name for name in names]

    def vocabulary(self, parts: dict[str, Part]) -> tuple[str, ...]:
        return _known([*parts[TRAIN].answers, *parts[VAL].answers], self.least)

    def read_parts(self) -> dict[str, Part]:
        files = self._files()
        train, test = _asked(files[0], files[1], "train2014"), _asked(files[2], files[3], "val2014")
        known = set(_known(train.answers, self.least))
        if len(known) < 2:
            raise BadInput(f"{files[1]}: fewer than two answers are given {self.least} times; lower dataset.least")
        pictures = list(dict.fromkeys(train.paths))
        order = hash_order(f"vqa-seed{self.split_seed}:", pictures)
        held = {pictures[row] for row in order[: max(len(pictures) // 10, 1)].tolist()}
        answerable = [row for row, given in enumerate(train.answers) if known & set(given)]
        kept = [row for row in answerable if train.paths[row] not in held]
        validating = [row for row in answerable if train.paths[row] in held]
        return {TRAIN: _rows(train, kept), VAL: _rows(train, validating), TEST: test}


_KINDS = (("OpenEnded_mscoco", "questions"), ("mscoco", "annotations"))


def _known(answers: Iterable[Sequence[str]], least: int) -> tuple[str, ...]:
    """What is the most frequent answer to that many questions."""
    most = Counter(Counter(given).most_common(1)[0][0] for given in answers)
    return tuple(sorted(answer for answer, times in most.items() if times >= least))


def _asked(questions: Path, annotations: Path, year: str) -> Part:
    answers = {}
    for number, found in enumerate(_read(annotations, "annotations")):
        given = found.get("answers")
        if not isinstance(given, list) or not 0 < len(given) <= ANNOTATORS:
            raise BadInput(f"{annotations}: annotation {number} must have one to {ANNOTATORS} answers")
        place = f"{annotations}: annotation {number}"
        answers[found.get("question_id")] = tuple(plain_answer(_word(one, "answer", place)) for one in given)
    paths, texts, given_answers = [], [], []
    for number, asked in enumerate(_read(questions, "questions")):
        image, key = asked.get("image_id"), asked.get("question_id")
        if not isinstance(image, int) or key not in answers:
            raise BadInput(f"{questions}: question {number} has no whole image_id, or its question_id no annotation")
        paths.append(f"{year}/COCO_{year}_{image:012d}.jpg")
        texts.append((_word(asked, "question", f"{questions}: question {number}"),))
        given_answers.append(answers[key])
    return Part(tuple(paths), tuple(texts), tuple(given_answers))


def _rows(part: Part, rows: Sequence[int]) -> Part:
    return Part(
        tuple(part.paths[row] for row in rows),
        tuple(part.texts[row] for row in rows),
        tuple(part.answers[row] for row in rows),
    )


def _read(file: Path, key: str) -> list[dict[str, Any]]:
    """The list under `key` of a json file. Raises `MissingInput` or `BadInput`."""
    if not file.is_file():
        raise MissingInput(f"{file}: there is no such file")
    content = read_json(file)
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise BadInput(f"{file}: it has no list of entries under '{key}'")
    return found


def _word(entry: Any, key: str, place: str, default: str | None = None) -> str:
    value = entry.get(key, default) if isinstance(entry, dict) else None
    if not isinstance(value, str):
        raise BadInput(f"{place}: its {key} must be text, got {brief(repr(value))}")
    return value
