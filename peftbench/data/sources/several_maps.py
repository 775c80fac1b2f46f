"""Sets whose images have several maps each: NYUDv2 and PASCAL-Context as the multi-task literature lays them out.

The layouts are those of ASTMT (Maninis et al., CVPR 2019), which MTI-Net, MTLoRA and others read. A kind of map whose
folder is not there is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.maps import numbers_from_one, plain_numbers
from peftbench.data.sources.map_files import (
    MapFile,
    Reader,
    Size,
    array_values,
    colour_values,
    mask_values,
    matlab,
    matrix,
)
from peftbench.data.sources.mask_forms import VOC, Found, Sample, listed_stems, needed
from peftbench.foundation.entries import entries_in
from peftbench.foundation.errors import BadInput
from peftbench.foundation.maps import PARTS, UNKNOWN

_NYU_WORDS = (
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser "
    "pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box whiteboard "
    "person night_stand toilet sink lamp bathtub bag other_structure other_furniture other_prop"
)
NYU = tuple(_NYU_WORDS.split())

# Pascal-Part's words for parts of people -> their number in `PARTS`; what begins with l or r has two sides
_PART_WORDS = {
    1: "hair head mouth nose lear rear lebrow rebrow leye reye",
    2: "neck torso",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
_PART_OF = {word: number for number, words in _PART_WORDS.items() for word in words.split()}
_PERSON = 15

# Labels of PASCAL-Context whose name is also one of NYUDv2's: normals were distilled from a network trained there, so
# that they are known on these alone.
_INDOOR = [
    *(3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56),
    *(59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124),
    *(135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202),
    *(213, 215, 216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261),
    *(263, 269, 272, 273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314),
    *(315, 319, 323, 329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383),
    *(384, 397, 401, 403, 405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442),
    *(443, 444, 446, 454, 457),
]


def nyud(root: Path) -> Found:
    """images, segmentation, depth, normals and edge with one file an image, gt_sets/train.txt and val.txt, which tests;
    class 0 and depth 0 are unknown.
    """
    readers: dict[str, Reader] = {"depth": _depth, "normals": _normals, "edges": _marks}
    folders = {"class_map": "segmentation", "depth": "depth", "normals": "normals", "edges": "edge"}
    usual = {name: ".png" if name == "class_map" else ".npy" for name in folders}
    there = {name: _suffixes(root / folder) for name, folder in folders.items()}
    present = ["class_map", *(name for name in readers if there[name])]

    def sample(stem: str) -> Sample:
        files = {name: (f"{folders[name]}/{stem}{there[name].get(stem, usual[name])}",) for name in present}
        return Sample(f"images/{stem}.jpg", files)

    parts = {part: list(map(sample, stems)) for part, stems in listed_stems(root, "gt_sets", "images").items()}
    others = {name: readers[name] for name in present[1:]}
    return Found(needed(root, parts), NYU, numbers_from_one(len(NYU)), others)


def pascal_mt(root: Path) -> Found:
    """JPEGImages, semseg/VOC12 and semseg/pascal-context, pascal-context/trainval, human_parts, normals_distill,
    sal_distill and ImageSets/Context/train.txt and val.txt, which tests; 255 at borders.
    """
    readers: dict[str, Reader] = {
        "human_parts": _human_parts,
        "saliency": _salient,
        "normals": _distilled_normals,
        "edges": _outlines,
    }
    labels = "pascal-context/trainval/{}.mat"
    files = {
        "human_parts": ("human_parts/{}.mat",),
        "saliency": ("sal_distill/{}.png",),
        "normals": ("normals_distill/{}.png", labels),
        "edges": (labels,),
    }
    present = [name for name in readers if all((root / file).parent.is_dir() for file in files[name])]
    of_voc = _suffixes(root / "semseg" / "VOC12")

    def sample(stem: str) -> Sample:
        mask = f"semseg/{'VOC12' if stem in of_voc else 'pascal-context'}/{stem}.png"
        maps = {name: tuple(file.format(stem) for file in files[name]) for name in present}
        return Sample(f"JPEGImages/{stem}.jpg", {"class_map": (mask,), **maps})

    stems = listed_stems(root, "ImageSets/Context", "JPEGImages")
    parts = {part: list(map(sample, names)) for part, names in stems.items()}
    return Found(needed(root, parts), tuple(VOC), plain_numbers(), {name: readers[name] for name in present})


def _suffixes(folder: Path) -> dict[str, str]:
    """Stem -> suffix of every file there; an array goes before a picture of the same name."""
    return {path.stem: path.suffix for path in sorted(entries_in(folder), key=lambda path: path.suffix == ".npy")}


def _depth(files: Sequence[MapFile], size: Size) -> np.ndarray:
    """In metres; what is not above 0 is unknown."""
    values = array_values(files[0], size)
    return np.where(values > 0, values, np.float32(np.nan))


def _normals(files: Sequence[MapFile], size: Size) -> np.ndarray:
    return _unit(array_values(files[0], size, channels=3))


def _marks(files: Sequence[MapFile], size: Size) -> np.ndarray:
    """Everything above 0 is marked."""
    read = array_values if files[0].name.endswith(".npy") else mask_values
    marked: np.ndarray = (read(files[0], size) > 0).astype(np.uint8)
    return marked


def _salient(files: Sequence[MapFile], size: Size) -> np.ndarray:
    marked: np.ndarray = (mask_values(files[0], size) > 127).astype(np.uint8)
    return marked


def _distilled_normals(files: Sequence[MapFile], size: Size) -> np.ndarray:
    """A picture of normals, each component from 0 to 255, known where things are of the kinds that NYUDv2 has."""
    found = _unit(2 * colour_values(files[0], size).astype(np.float32) / 255 - 1)
    return np.where(np.isin(matrix(files[1], "LabelMap", size), _INDOOR), found, np.float32(np.nan))


def _outlines(files: Sequence[MapFile], size: Size) -> np.ndarray:
    """Pixels whose right or lower neighbour has another of PASCAL-Context's labels.

    ASTMT thins the non-zero pixels of a Laplacian, which gives lines as wide, at most a pixel aside.
    """
    labels = matrix(files[0], "LabelMap", size)
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges.astype(np.uint8)


def _human_parts(files: Sequence[MapFile], size: Size) -> np.ndarray:
    """Parts of all people; an image without any is unknown as a whole, as in ASTMT."""
    parts = np.zeros(size[::-1], np.uint8)
    try:
        for thing in _structs(matlab(files[0])["anno"][0, 0]["objects"]):
            if int(thing["class_ind"].item()) == _PERSON:
                for part in _structs(thing["parts"]):
                    parts[part["mask"].astype(bool)] = _PART_OF[str(part["part_name"].item())]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{files[0].name}: these are no parts of people as Pascal-Part has them, of {size[0]} x {size[1]} pixels "
            f"({error}); copy it again"
        ) from error
    assert parts.max(initial=0) < len(PARTS)
    return parts if parts.any() else np.full_like(parts, UNKNOWN)


def _structs(values: Any) -> list[Any]:
    """The elements of a Matlab array of structures, which may be empty."""
    return list(np.asarray(values).ravel())


def _unit(vectors: np.ndarray) -> np.ndarray:
    """[3, height, width] of length 1; no vector where there is none."""
    length = np.linalg.norm(vectors, axis=0)
    found: np.ndarray = np.where(length > 0, vectors / np.where(length > 0, length, 1), np.nan).astype(np.float32)
    return found
