"""Decoding: every 8-bit mode becomes RGB or L, everything else is one clear error that names the image."""

import io

import numpy as np
import pytest
from PIL import Image

from peftbench.data.pixels.decode import decode_image
from peftbench.foundation.errors import BadInput


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


RED = Image.new("RGB", (6, 4), (250, 10, 20))


@pytest.mark.parametrize(
    ("image", "kind", "mode"),
    [
        (RED, "PNG", "RGB"),
        (RED.convert("L"), "PNG", "L"),
        (RED.convert("1"), "PNG", "L"),
        (RED.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", "RGB"),
        (RED.convert("P", palette=Image.Palette.ADAPTIVE), "GIF", "RGB"),
        (RED.convert("LA"), "PNG", "RGB"),
        (RED.convert("RGBA"), "PNG", "RGB"),
        (RED.convert("CMYK"), "JPEG", "RGB"),
        (RED.convert("L"), "JPEG", "L"),
        (RED, "BMP", "RGB"),
    ],
)
def test_eight_bit_modes(image, kind, mode):
    decoded = decode_image(encoded(image, kind), "x")
    assert (decoded.mode, decoded.size) == (mode, (6, 4))


def test_alpha_is_dropped_without_compositing_and_palettes_give_colours():
    clear = Image.new("RGBA", (2, 2), (250, 10, 20, 0))
    assert decode_image(encoded(clear, "PNG"), "x").getpixel((0, 0)) == (250, 10, 20)
    palette = RED.convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode_image(encoded(palette, "PNG"), "x").getpixel((0, 0)) == (250, 10, 20)


def test_cmyk_jpeg_keeps_its_colour():
    red = decode_image(encoded(RED.convert("CMYK"), "JPEG", quality=95), "x").getpixel((2, 2))
    assert np.abs(np.array(red) - (250, 10, 20)).max() < 12


@pytest.mark.parametrize("dtype", [np.int32])
def test_more_than_eight_bits_is_refused_not_clipped(dtype):
    deep = encoded(Image.fromarray(np.full((4, 4), 40_000, dtype)), "TIFF")
    with pytest.raises(BadInput, match=r"a/b\.tif: image mode .* more than 8 bits"):
        decode_image(deep, "a/b.tif")


def test_sixteen_bit_grey_is_scaled_to_eight_not_clipped():
    deep = encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG")
    assert set(np.asarray(decode_image(deep, "x")).ravel().tolist()) <= {155, 156}


def noise_image() -> Image.Image:
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncation_anywhere_is_one_clear_error(kind):
    whole = encoded(noise_image(), kind)
    for keep in (1, 10, len(whole) // 4, len(whole) // 2):
        with pytest.raises(BadInput, match=r"^pic: "):
            decode_image(whole[:keep], "pic")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_random_damage_decodes_or_is_a_clear_error(kind):
    whole = encoded(noise_image(), kind)
    random = np.random.RandomState(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for position in random.randint(0, len(whole), 5):
            damaged[position] = random.randint(256)
        try:
            assert decode_image(bytes(damaged), "pic").mode in ("RGB", "L")
        except BadInput as error:
            assert str(error).startswith("pic: ")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 100])
def test_not_an_image(data):
    with pytest.raises(BadInput, match=r"^pic: .*(0 bytes|not an image)"):
        decode_image(data, "pic")
