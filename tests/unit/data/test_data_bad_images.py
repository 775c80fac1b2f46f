"""Every kind of image in every kind of source: the same pixels everywhere, or one line that names the image."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.base import DatasetSpec
from peftbench.data.fgvc import dataset as fgvc
from peftbench.data.fgvc.dataset import Fgvc
from peftbench.data.fgvc.tasks import FGVC_TASKS
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import RawSplit
from peftbench.data.sources.csv_files import CsvFiles
from peftbench.data.sources.folder import Folder
from peftbench.data.sources.hf import HfDataset
from peftbench.data.vtab.folder import VtabFolder
from peftbench.foundation.errors import BadInput
from tests.closed_folders import close_folder


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


RED = Image.new("RGB", (6, 4), (250, 10, 20))
PLAIN = encoded(RED)


def in_folder(root: Path, data: bytes) -> DatasetSpec:
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / "0.png").write_bytes(PLAIN)
    (root / "test" / "a" / "0.png").write_bytes(data)
    return Folder(root=str(root))


def in_csv(root: Path, data: bytes) -> DatasetSpec:
    in_folder(root, data)
    lines = [f"{part}/{name}/0.png,{name},{part}" for part in ("test", "train") for name in ("a", "b")]
    (root / "list.csv").write_text("path,label,split\n" + "\n".join(lines))
    return CsvFiles(path=str(root / "list.csv"))


def in_vtab_folder(root: Path, data: bytes) -> DatasetSpec:
    folder = root / "kitti"
    folder.mkdir(parents=True)
    (folder / "plain.png").write_bytes(PLAIN)
    for split, count in (("train800", 800), ("val200", 200), ("test", 2)):
        for index in range(count):
            os.link(folder / "plain.png", folder / f"{split}{index}.png")
        lines = [f"{split}{index}.png {index % 4}\n" for index in range(count)]
        (folder / f"{split}.txt").write_text("".join(lines))
    (folder / "test0.png").unlink()
    (folder / "test0.png").write_bytes(data)
    return VtabFolder(task="kitti", root=str(root))


def in_fgvc(root: Path, data: bytes) -> DatasetSpec:
    in_folder(root / "CUB_200_2011" / "images", data)
    for part in ("train", "test"):
        listed = {f"{part}/{name}/0.png": number for number, name in enumerate("ab", start=1)}
        (root / "CUB_200_2011" / f"{part}.json").write_text(json.dumps(listed))
    return Fgvc(root=str(root))


def in_parquet(root: Path, data: bytes) -> DatasetSpec:
    import datasets

    root.mkdir()
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    for part in ("train", "test"):
        cells = [{"bytes": data if part == "test" else PLAIN, "path": None}, {"bytes": PLAIN, "path": None}]
        table = datasets.Dataset.from_dict({"image": cells, "label": [0, 1]}, features=features)
        table.to_parquet(root / f"{part}.parquet")
    return HfDataset(path=str(root))


SOURCES: dict[str, Callable[[Path, bytes], DatasetSpec]] = {
    "folder": in_folder,
    "csv": in_csv,
    "vtab_folder": in_vtab_folder,
    "fgvc": in_fgvc,
    "hf": in_parquet,
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    facts = dataclasses.replace(FGVC_TASKS["cub200"], num_classes=2, num_train=2, num_val=0, num_test=2)
    monkeypatch.setitem(fgvc.FGVC_TASKS, "cub200", facts)


def read_split(kind: str, place: Path, data: bytes) -> RawSplit:
    """The test split of a dataset of this kind whose first test image is `data`."""
    place.mkdir(exist_ok=True)
    return SOURCES[kind](place / "data", data).open().split("test")


def animated() -> bytes:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ((250, 10, 20), (0, 0, 255))]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RED, "JPEG", quality=95, exif=exif)


GOOD = {
    "plain": PLAIN,
    "palette": encoded(RED.convert("P", palette=Image.Palette.ADAPTIVE)),
    "alpha": encoded(Image.new("RGBA", (6, 4), (250, 10, 20, 0))),
    "cmyk": encoded(RED.convert("CMYK"), "JPEG", quality=95),
    "animated": animated(),
    "exif rotation": rotated(),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_eight_bit_image_is_read_unrotated_and_without_compositing(kind, tmp_path):
    for number, (name, data) in enumerate(GOOD.items()):
        image = read_split(kind, tmp_path / str(number), data).read(0)
        assert (image.mode, image.size) == ("RGB", (6, 4)), name
        assert np.abs(np.array(image.getpixel((2, 2))) - (250, 10, 20)).max() < 12, name
    grey = read_split(kind, tmp_path / "grey", encoded(RED.convert("L"))).read(0)
    assert grey.mode == "L"


BAD = {
    "truncated": (encoded(RED.resize((60, 40)), "JPEG")[:300], "the image cannot be decoded"),
    "no image": (b"this is text", "not an image format"),
    "thirty-two bits": (
        encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
        "more than 8 bits a channel",
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named_when_it_is_read(kind, name, tmp_path):
    data, message = BAD[name]
    source = SOURCES[kind](tmp_path / "data", data).open()
    with pytest.raises(BadInput, match=message) as caught:
        load_split(source, "test", ImageTransform(4), tmp_path / "cache")
    assert ("row 0" if kind == "hf" else ".png") in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SOURCES)
def test_an_empty_image_is_named(kind, tmp_path):
    spec = SOURCES[kind](tmp_path / "data", b"")
    with pytest.raises(BadInput, match=r"0 bytes") as caught:
        load_split(spec.open(), "test", ImageTransform(4), tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_huge_image_is_refused_before_its_pixels_are_made(kind, tmp_path):
    # a black picture of a billion pixels is a small file
    header = encoded(Image.new("1", (8, 8)), "BMP")
    huge = bytearray(header)
    huge[18:22], huge[22:26] = (40_000).to_bytes(4, "little"), (40_000).to_bytes(4, "little")
    with pytest.raises(BadInput, match="far too large"):
        read_split(kind, tmp_path, bytes(huge)).read(0)


@pytest.mark.parametrize("kind", ["folder", "csv", "vtab_folder", "fgvc"])
def test_a_file_that_may_not_be_read_is_named(kind, tmp_path, monkeypatch):
    split = read_split(kind, tmp_path, PLAIN)
    refused = split.paths[0]
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadInput, match=rf"{refused.name}: the image cannot be read \(Permission denied\)"):
        split.read(0)


@pytest.mark.parametrize("kind", ["csv", "vtab_folder", "fgvc"])
def test_a_list_that_may_not_be_read_is_named(kind, tmp_path, monkeypatch):
    spec = SOURCES[kind](tmp_path / "data", PLAIN)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.suffix in (".csv", ".txt", ".json"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\)"):
        spec.open()


def test_a_parquet_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    spec = in_parquet(tmp_path / "data", PLAIN)
    open_file = Path.open

    def refuse(path: Path, *arguments: object, **options: object):
        if path.suffix == ".parquet":
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match=r"\.parquet: cannot be read \(Permission denied\)"):
        spec.revision()


def test_a_folder_of_tables_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    spec = in_parquet(tmp_path / "data", PLAIN)
    refused = tmp_path / "data" / "more"
    refused.mkdir()
    close_folder(monkeypatch, refused)
    with pytest.raises(BadInput, match="more: permission denied"):
        spec.revision()
