"""Maps as files: masks as pictures, arrays of numpy, matrices of Matlab; each as large as its image, or refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.data.matlab_files import variables
from peftbench.data.pixels.decode import opened
from peftbench.foundation.errors import BadInput

# (width, height), as Pillow has it
Size = tuple[int, int]


@dataclass(frozen=True)
class MapFile:
    """The bytes of a file, and what to call it in messages."""

    data: bytes
    name: str

    @classmethod
    def at(cls, path: Path) -> MapFile:
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise BadInput(f"{path}: the mask cannot be read ({error.strerror})") from error


# the files of one map of one image, and the image's size -> the map, as `data.maps` says of it
Reader = Callable[[Sequence[MapFile], Size], np.ndarray]


@dataclass(frozen=True)
class ClassNumbers:
    """Reads a mask of class numbers. `numbers`, uint8 [256]: what each stands for."""

    numbers: np.ndarray

    def __call__(self, files: Sequence[MapFile], size: Size) -> np.ndarray:
        mapped: np.ndarray = self.numbers[mask_values(files[0], size)]
        return mapped


def mask_values(file: MapFile, size: Size) -> np.ndarray:
    """Numbers uint8 [height, width] of a mask with one channel, as they are stored.

    Raises `BadInput` naming the file for what is no mask, and for one that is not of `size`.
    """
    values, mode = _picture(file)
    if values.ndim != 2:
        raise BadInput(
            f"{file.name}: a mask holds class numbers in one channel (grey or palette PNG), and this is a picture in "
            f"mode {mode}; convert its colours to numbers"
        )
    _check_size(file, values.shape, size)
    if values.dtype != np.uint8 and (values.min() < 0 or values.max() > 255):
        raise BadInput(f"{file.name}: the mask holds {values.max()}; class numbers go up to 254, and 255 is unknown")
    return values.astype(np.uint8)


def colour_values(file: MapFile, size: Size) -> np.ndarray:
    """uint8 [3, height, width] of a picture in colour. Raises `BadInput` for another one, or another size."""
    values, mode = _picture(file)
    if mode != "RGB":
        raise BadInput(f"{file.name}: this map is a picture in RGB, and the file holds one in mode {mode}")
    _check_size(file, values.shape, size)
    return values.transpose(2, 0, 1)


def array_values(file: MapFile, size: Size, channels: int = 1) -> np.ndarray:
    """float32 [height, width], or [channels, height, width], of an array stored by numpy with its channels last.

    Raises `BadInput` for what is no such array; one of Python objects is never read.
    """
    try:
        values = np.load(io.BytesIO(file.data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{file.name}: numpy cannot read it ({error}); copy it again") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise BadInput(f"{file.name}: this map is one array of numbers, and the file holds something else")
    flat = values[..., 0] if channels == 1 and values.ndim == 3 and values.shape[2] == 1 else values
    if flat.ndim != (2 if channels == 1 else 3) or flat.shape[2:] != (() if channels == 1 else (channels,)):
        wanted = "height x width" if channels == 1 else f"height x width x {channels}"
        raise BadInput(
            f"{file.name}: the array has {' x '.join(map(str, values.shape))} numbers and must have {wanted}"
        )
    _check_size(file, flat.shape, size)
    numbers = flat.astype(np.float32)
    return numbers if channels == 1 else numbers.transpose(2, 0, 1)


def matlab(file: MapFile) -> dict[str, Any]:
    """The variables of a Matlab file by name. Raises `BadInput` for what is none."""
    return variables(io.BytesIO(file.data), file.name)


def matrix(file: MapFile, variable: str, size: Size) -> np.ndarray:
    """The matrix [height, width] of that name. Raises `BadInput` where there is none, or of another size."""
    values = matlab(file).get(variable)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiub":
        raise BadInput(f"{file.name}: there is no matrix {variable} in it; copy it again")
    _check_size(file, values.shape, size)
    return values


def _picture(file: MapFile) -> tuple[np.ndarray, str]:
    with opened(file.data, file.name, "mask") as picture:
        return np.asarray(picture), picture.mode


def _check_size(file: MapFile, shape: Sequence[int], size: Size) -> None:
    if (shape[1], shape[0]) != size:
        raise BadInput(
            f"{file.name}: the mask has {shape[1]} x {shape[0]} pixels and its image {size[0]} x {size[1]}; "
            "they must be of one size"
        )
