"""Originals that are array files: SVHN (.mat), PatchCamelyon (.h5), dSprites (.npz) and smallNORB (its own format)."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from peftbench.data.matlab_files import variables
from peftbench.data.vtab.originals.examples import Examples, Splits, stored_examples
from peftbench.foundation.errors import BadInput, MissingInput

DSPRITES_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
DSPRITES_SHAPE = (3, 6, 40, 32, 32)  # shape, scale, orientation, x, y: the last one changes fastest
_NORB_FILES = {"train": "smallnorb-5x46789x9x18x6x2x96x96-training", "test": "smallnorb-5x01235x9x18x6x2x96x96-testing"}
_NORB_TYPES: dict[int, np.dtype[Any]] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}


def svhn(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """Cropped SVHN digits. Key: the running index; the raw label 10 is digit 0."""

    def examples(path: Path) -> Examples:
        labels = _variable(path, "y").reshape(-1).astype(np.int64) % 10

        def load(rows: np.ndarray) -> np.ndarray:
            images = _variable(path, "X")
            return np.ascontiguousarray(np.moveaxis(images[..., rows], -1, 0))

        return stored_examples([path], range(len(labels)), labels, load)

    splits = {split: examples(root / f"{split}_32x32.mat") for split in ("train", "test")}
    return splits, tuple(str(digit) for digit in range(10))


def _variable(path: Path, name: str) -> np.ndarray:
    with path.open("rb") as stream:
        found = variables(stream, str(path), variable_names=[name]).get(name)
    if not isinstance(found, np.ndarray):
        raise BadInput(f"{path}: there is no matrix {name} in it; copy it again")
    return found


def patch_camelyon(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """PatchCamelyon. Key: `train_<i>`, `valid_<i>` or `test_<i>`; the validation split is salted as `validation`."""
    try:
        import h5py
    except ImportError as error:
        raise MissingInput("patch_camelyon is stored in HDF5 files: pip install 'peftbench[originals]'") from error

    def examples(name: str) -> Examples:
        stem = root / "pcam" / f"camelyonpatch_level_2_split_{name}"
        images, answers = stem.with_name(f"{stem.name}_x.h5"), stem.with_name(f"{stem.name}_y.h5")
        with h5py.File(answers) as file:
            labels = file["y"][()].reshape(-1)

        def load(rows: np.ndarray) -> np.ndarray:
            order = np.argsort(rows)  # HDF5 selects in increasing order only
            with h5py.File(images) as file:
                chosen = file["x"][rows[order]]
            return cast(np.ndarray, chosen[np.argsort(order)])

        return stored_examples([images], [f"{name}_{index}" for index in range(len(labels))], labels, load)

    splits = {"train": examples("train"), "validation": examples("valid"), "test": examples("test")}
    return splits, ("no tumour", "tumour")


def dsprites_loc(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """dSprites by horizontal position: 32 places in 16 bins. Key: the running index."""
    return _dsprites(root, lambda orientation, x: x // 2)


def dsprites_ori(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """dSprites by orientation: 40 angles in 16 bins, alternately 3 and 2 wide. Key: the running index."""
    return _dsprites(root, lambda orientation, x: np.floor(orientation / 2.5))


def _dsprites(root: Path, label_of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[Splits, tuple[str, ...]]:
    """`label_of` gets the orientation (0 to 39) and the horizontal place (0 to 31) of every image."""
    path = root / "dsprites" / DSPRITES_FILE
    factors = np.unravel_index(np.arange(np.prod(DSPRITES_SHAPE)), DSPRITES_SHAPE)
    with np.load(path, allow_pickle=False) as file:
        # Columns are colour, shape, scale, orientation, x, y: the order of the rows is checked, not trusted.
        stored = file["latents_classes"]
    if stored.shape != (len(factors[0]), 6) or any(
        not np.array_equal(stored[:, 1 + column], factor) for column, factor in enumerate(factors)
    ):
        raise BadInput(f"{path}: its rows are not in the published order; download it again")
    labels = label_of(factors[2], factors[3]).astype(np.int64)
    examples = stored_examples(
        [path], range(len(labels)), labels, lambda rows: _npz_rows(path, "imgs", rows) * np.uint8(255)
    )
    return {"train": examples}, tuple(f"bin {label}" for label in range(16))


def _npz_rows(path: Path, member: str, rows: np.ndarray) -> np.ndarray:
    """Chosen rows of an array in a .npz, read as a stream: the whole array would take gigabytes."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if fortran or dtype.itemsize != 1:
            raise BadInput(f"{path}: {member} is stored as {dtype}, expected bytes in C order; download it again")
        size = int(np.prod(shape[1:]))
        result = np.empty((len(rows), *shape[1:]), np.uint8)
        places = np.argsort(rows)
        start, chunk = 0, 4096
        while start < shape[0]:
            block = np.frombuffer(file.read(min(chunk, shape[0] - start) * size), np.uint8).reshape(-1, *shape[1:])
            if not len(block):
                raise BadInput(f"{path}: {member} is cut short; download it again")
            low, high = np.searchsorted(rows[places], (start, start + len(block)))
            wanted = places[low:high]
            result[wanted] = block[rows[wanted] - start]
            start += len(block)
    return result


def smallnorb_azi(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """smallNORB by azimuth, 18 steps of 20 degrees, first camera. Key: the running index."""
    return _smallnorb(root, 2, 2), tuple(f"{20 * label} degrees" for label in range(18))


def smallnorb_ele(root: Path) -> tuple[Splits, tuple[str, ...]]:
    """smallNORB by elevation, 9 steps of 5 degrees from 30, first camera. Key: the running index."""
    return _smallnorb(root, 1, 1), tuple(f"{30 + 5 * label} degrees" for label in range(9))


def _smallnorb(root: Path, column: int, step: int) -> Splits:
    """`column` of the info file divided by `step` is the label; columns are instance, elevation, azimuth, light."""
    splits = {}
    for split, stem in _NORB_FILES.items():
        info = read_norb(_norb_file(root, f"{stem}-info.mat"))
        data = _norb_file(root, f"{stem}-dat.mat")
        splits[split] = stored_examples([data], range(len(info)), info[:, column] // step, _first_camera(data))
    return splits


def _first_camera(data: Path) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: read_norb(data)[rows, 0]


def _norb_file(root: Path, name: str) -> Path:
    path = root / "smallnorb" / name
    return path if path.exists() else path.with_name(f"{name}.gz")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_norb(path: Path) -> np.ndarray:
    """The array in a smallNORB file: type code, number of dimensions, at least three sizes, data; little-endian."""
    try:
        with _open(path) as file:
            code, num_dimensions = np.frombuffer(file.read(8), "<i4").tolist()
            sizes = np.frombuffer(file.read(4 * max(3, num_dimensions)), "<i4").tolist()[:num_dimensions]
            values: np.ndarray = np.frombuffer(file.read(), _NORB_TYPES[code])
            return values.reshape(sizes)
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: not a complete smallNORB file ({error!r}); download it again") from error
