"""From encoded bytes to a picture in mode RGB or L, the way the field's loaders do it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from peftbench.foundation.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L")
# PA, LA, La, RGBA, RGBa, RGBX: the RGB conversion drops alpha without compositing, as every peer does.
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "LA", "La", "CMYK", "YCbCr", "LAB", "HSV")

# What Pillow's decoders raise on damaged files; OSError covers the declared cases only.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
)


def decode_image(data: bytes, name: str, upright: bool = False) -> Image:
    """The picture in `data`, in mode L (grey) or RGB, turned as its EXIF data say only with `upright`.

    Raises `BadInput` naming `name` for empty, corrupt or truncated data and for pixels that are no integers.
    """
    from PIL import ImageOps

    with opened(data, name) as image:
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    return to_rgb_or_grey(image, name)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) of the picture in `data` as its header says it, as stored; nothing is decoded.

    Raises `BadInput` as `decode_image` does.
    """
    with opened(data, name) as image:
        size: tuple[int, int] = image.size
    return size


@contextmanager
def opened(data: bytes, name: str, what: str = "image") -> Iterator[Image]:
    """The picture in `data`, read lazily; what Pillow raises meanwhile in one line with its name and `what` it is."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadInput(f"{name}: the {what} is empty (0 bytes); copy it again")
    try:
        with warnings.catch_warnings():
            # Palette transparency and oversized EXIF blocks warn; neither changes the pixels used here.
            warnings.simplefilter("ignore")
            yield Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadInput(f"{name}: refused, the {what} is far too large: {error}") from error
    except _DECODER_ERRORS as error:
        # Pillow's text names the buffer object it read from, which means nothing to the user.
        reason = "not an image format Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise BadInput(f"{name}: the {what} cannot be decoded ({reason}); it is corrupt or truncated") from error


def to_rgb_or_grey(image: Image, name: str) -> Image:
    """`image` converted to mode L (from grey) or RGB (from anything else with 8 bits a channel).

    Grey with 16 bits is scaled to 8, 65535 becoming 255.
    """
    if image.mode in _GREY_16_BITS:
        return _scaled(image)
    if image.mode in _GREY_MODES:
        return image.convert("L")
    if image.mode in _COLOUR_MODES:
        return image.convert("RGB")
    raise BadInput(
        f"{name}: image mode {image.mode} has more than 8 bits a channel and would be clipped; "
        "convert it to 8 bits first"
    )


def peculiarity(path: str) -> str | None:
    """What its header says of an image that a user should know: `rotated` (EXIF), `16-bit`, or nothing."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.mode in _GREY_16_BITS:
                    return "16-bit"
                # 274: orientation; 1 and absent mean as stored
                return "rotated" if image.getexif().get(274, 1) not in (0, 1) else None
    except (Image.DecompressionBombError, *_DECODER_ERRORS):
        return None


def _scaled(image: Image) -> Image:
    import numpy as np
    from PIL import Image as images

    # 257 = 65535 / 255
    return images.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
