"""Class folders as people have them, each with one thing wrong."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def png(colour: int = 0, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (2, 2), colour).save(stream, "PNG")
    return stream.getvalue()


def classes(root: Path, names: Sequence[str] = ("cat", "dog"), count: int = 3, start: int = 0) -> None:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index:04d}.png").write_bytes(png((start + number * count + index) % 256))


def divided(root: Path, names: Sequence[str] = ("cat", "dog")) -> None:
    for number, part in enumerate(("train", "test")):
        classes(root / part, names, start=100 * number)


# class folders


def make_one_class(place: Path) -> None:
    classes(place, ["cat"])


def make_few_images(place: Path) -> None:
    classes(place)


def make_divided(place: Path) -> None:
    divided(place)


def make_empty_class(place: Path) -> None:
    divided(place)
    (place / "train" / "bird").mkdir()


def make_loose_images(place: Path) -> None:
    classes(place)
    (place / "lost.png").write_bytes(png())


def make_loose_beside_parts(place: Path) -> None:
    divided(place)
    (place / "lost.png").write_bytes(png())


def make_loose_beside_classes(place: Path) -> None:
    divided(place)
    (place / "train" / "lost.png").write_bytes(png())


def make_images_only(place: Path) -> None:
    place.mkdir()
    (place / "a.png").write_bytes(png())


def make_no_test(place: Path) -> None:
    classes(place / "train")


def make_no_train(place: Path) -> None:
    classes(place / "val")
    classes(place / "test")


def make_named_parts(place: Path) -> None:
    classes(place / "seg_train")
    classes(place / "seg_test")


def make_empty_test(place: Path) -> None:
    classes(place / "train")
    (place / "test").mkdir()


def make_two_trains(place: Path) -> None:
    divided(place)
    classes(place / "training")


def make_part_and_class(place: Path) -> None:
    divided(place)
    classes(place, ["bird"])


def make_case_classes(place: Path) -> None:
    classes(place / "train", ["Cat", "dog"])
    classes(place / "test", ["cat", "dog"], start=100)


def make_unlearnt_class(place: Path) -> None:
    classes(place / "train")
    classes(place / "test", ["cat", "dog", "bird"], start=100)


def make_linked_folder(place: Path) -> None:
    classes(place)
    (place / "bird").symlink_to(place / "dog")


def make_linked_image(place: Path) -> None:
    divided(place)
    outside = place.with_name("outside.png")
    outside.write_bytes(png())
    (place / "train" / "cat" / "z.png").symlink_to(outside)


def make_looping_image(place: Path) -> None:
    divided(place)
    link = place / "train" / "cat" / "z.png"
    link.symlink_to(link)


def make_dead_link(place: Path) -> None:
    divided(place)
    (place / "train" / "cat" / "z.png").symlink_to(place / "gone.png")


def make_folder_image(place: Path) -> None:
    divided(place)
    (place / "train" / "cat" / "z.png").mkdir()


def make_control_names(place: Path) -> None:
    """A class and a broken image whose names would colour and clear a terminal."""
    divided(place, ("cat", "do\x1b[31mg"))
    (place / "train" / "cat" / "z\x1b[2J.png").write_text("404: not found")


def _with_image(place: Path, content: bytes) -> None:
    divided(place)
    (place / "train" / "cat" / "z.png").write_bytes(content)


def make_zero_bytes(place: Path) -> None:
    _with_image(place, b"")


def make_half_image(place: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (64, 64), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    _with_image(place, stream.getvalue()[:2000])


def make_text_image(place: Path) -> None:
    _with_image(place, b"<html>not found</html>")


def make_float_image(place: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(stream, "TIFF")
    _with_image(place, stream.getvalue())


def make_bomb_image(place: Path) -> None:
    """A header that promises 40,000 by 40,000 pixels."""
    small = png()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + small[24:29]
    _with_image(place, small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])
