"""Several tasks from folders: domains that hold class folders, in the form of Office-Home and DomainNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from peftbench.data.base import DATASETS
from peftbench.data.sources.folder import Folder, class_images, refuse_hidden_parts, sorted_classes
from peftbench.data.sources.image_lists import ImageList, path_problem, read_text, shortened
from peftbench.data.sources.own_files import Listing
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.spec import option

PARTS = ("train", "test")


@DATASETS.add("domains")
@dataclass(frozen=True)
class Domains(Folder):
    """Folders `<domain>/<class>/<image>` in `root`, each domain a task of its own (`task.apart=true`).

    `domains`: which of the folders, and their order; all that hold folders where none is named. `lists`: a folder in
    `root` with `<domain>_train.txt` and `<domain>_test.txt`, lines of a path from `root` and the number of its class
    (DomainNet, Peng et al., ICCV 2019); without it the images are divided like other own files.
    """

    domains: list[str] = option([])
    lists: str = option("")

    layout: ClassVar[str] = "<root>/<domain>/<class>/<image>"

    def listing(self) -> Listing:
        root = self._root()
        found = self._domains(root)
        names: list[str] = []
        tasks: list[str] = []
        parts: dict[str, list[ImageList]] = {}
        left_out: list[str] = []
        for domain in found:
            if self.lists:
                classes, lists = _listed(root, self.lists, domain)
            else:
                classes = sorted_classes(set(self._subfolders(root / domain)))
                images, others = class_images(root, domain, classes, classes, self.follow_links, self.layout)
                lists, left_out = {"all": images}, left_out + others
            for part, images in lists.items():
                moved = ImageList(images.paths, images.labels + len(names))
                parts.setdefault(part, []).append(moved)
            names += classes
            tasks += [domain] * len(classes)
        joined = {part: sum(rest, first) for part, (first, *rest) in parts.items()}
        return Listing(root, tuple(names), joined, self._notes(left_out), tuple(tasks))

    def _domains(self, root: Path) -> list[str]:
        """Raises `BadInput` where one that is named is not there, where there are not two, or where they are parts."""
        if self.lists and not (root / self.lists).is_dir():
            raise MissingInput(f"{root / self.lists}: there is no such folder of lists; put <domain>_train.txt into it")
        there = [name for name in self._subfolders(root) if self._is_domain(root, name)]
        if absent := [name for name in self.domains if name not in there]:
            words = f"dataset.domains names {', '.join(absent)}, and those with images there are {', '.join(there)}"
            raise BadInput(f"{root}: {words}; dataset.root takes {self.layout}")
        if not self.domains and not self.lists:
            refuse_hidden_parts(root, there, self.layout, "name the domains that they are: dataset.domains=[...]")
        found = self.domains or there
        if len(set(found)) < max(2, len(found)):
            words = f"{root}: two domains or more are needed, each once, and there are {', '.join(found) or 'none'}"
            raise BadInput(f"{words}; dataset.root takes {self.layout}")
        return list(found)

    def _is_domain(self, root: Path, name: str) -> bool:
        if self.lists:
            return (root / self.lists / f"{name}_train.txt").is_file()
        return bool(self._subfolders(root / name))


def _listed(root: Path, folder: str, domain: str) -> tuple[list[str], dict[str, ImageList]]:
    """Class names of a domain in the order of their numbers, and the images of both parts."""
    read = {part: _rows(root / folder / f"{domain}_{part}.txt") for part in PARTS}
    names: dict[int, str] = {}
    for part, rows in read.items():
        for path, number in rows:
            name = path.split("/")[1]
            if names.setdefault(number, name) != name:
                where = root / folder / f"{domain}_{part}.txt"
                raise BadInput(f"{where}: {path} is of class {number}, which is '{names[number]}' in other lines")
    places = {number: place for place, number in enumerate(sorted(names))}
    lists = {
        part: ImageList(tuple(path for path, _ in rows), np.array([places[n] for _, n in rows], dtype=np.int64))
        for part, rows in read.items()
    }
    return [names[number] for number in places], lists


def _rows(file: Path) -> list[tuple[str, int]]:
    """Paths and class numbers of a list. Raises `BadInput` for lines that are something else."""
    rows, problems = [], []
    for at, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        path, _, number = line.strip().rpartition(" ")
        if path.count("/") < 2 or not (number.isascii() and number.isdigit()):
            problems.append(f"line {at} is '{line[:60]}'")
        elif problem := path_problem(path):
            problems.append(f"line {at}: {problem}")
        else:
            rows.append((path, int(number)))
    if problems or not rows:
        raise BadInput(f"{file}: {shortened(problems) or 'no lines'}; a line is <domain>/<class>/<image> <number>")
    return rows
