"""Resizing: shapes, agreement with independent references, and keys that tell transforms apart."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.data.pixels.transform import ImageTransform


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = (3,) if mode == "RGB" else ()
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 40),
    resize=st.sampled_from(["squash", "crop"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    antialias=st.booleans(),
    mode=st.sampled_from(["RGB", "L"]),
)
@settings(max_examples=60, deadline=None)
def test_every_picture_becomes_the_asked_square(width, height, size, resize, interpolation, antialias, mode):
    transform = ImageTransform(size, resize, interpolation, antialias, 0.875 if resize == "crop" else 1.0)
    pixels = transform.apply(picture(width, height, mode))
    assert pixels.shape == (size, size, 3 if mode == "RGB" else 1)
    assert pixels.dtype == np.uint8


def test_squash_is_pillows_resize():
    image = picture(61, 37)
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC))
    assert np.array_equal(ImageTransform(24).apply(image), expected)


@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
@pytest.mark.parametrize("shape", [(61, 37), (37, 61), (40, 40)])
def test_crop_is_torchvisions_resize_and_centre_crop(shape, crop_pct):
    transforms = pytest.importorskip("torchvision.transforms")
    reference = transforms.Compose(
        [
            transforms.Resize(int(24 / crop_pct), transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(24),
        ]
    )
    image = picture(*shape)
    assert np.array_equal(ImageTransform(24, "crop", crop_pct=crop_pct).apply(image), np.asarray(reference(image)))


def test_bilinear_without_antialias_is_torchs_interpolation():
    torch = pytest.importorskip("torch")
    image = picture(53, 41)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (16, 20 - 4), mode="bilinear", antialias=False)
    pixels = ImageTransform(16, interpolation="bilinear", antialias=False).apply(image)
    assert np.abs(pixels.astype(float) - expected[0].permute(1, 2, 0).numpy()).max() <= 0.51


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_enlarging_is_the_same_with_and_without_antialias(interpolation):
    # Low contrast, because Pillow clips overshoot between its two passes where ours clips once.
    image = picture(9, 7).point(lambda value: 90 + value // 4)
    smooth, point = (ImageTransform(30, "squash", interpolation, antialias).apply(image) for antialias in (True, False))
    # Pillow renormalises its kernel at the border where ours repeats the edge pixel.
    inner = (slice(10, 20), slice(10, 20))
    assert np.abs(smooth[inner].astype(int) - point[inner]).max() <= 1


def test_grey_and_grey_rgb_give_the_same_values():
    grey = picture(33, 47, "L")
    for transform in (ImageTransform(16), ImageTransform(16, antialias=False)):
        assert np.array_equal(np.repeat(transform.apply(grey), 3, -1), transform.apply(grey.convert("RGB")))


def test_keys_differ_exactly_when_the_options_do():
    transforms = [
        ImageTransform(size, resize, interpolation, antialias, crop_pct)
        for size, interpolation, antialias in itertools.product((32, 224), ("bicubic", "bilinear"), (True, False))
        for resize, crop_pct in (("squash", 1.0), ("crop", 1.0), ("crop", 0.9))
    ]
    assert len({transform.key() for transform in transforms}) == len(transforms)
    assert ImageTransform(32, crop_pct=0.9).key() == ImageTransform(32).key()


def test_exif_orientation_is_ignored_by_decoding():
    from peftbench.data.pixels.decode import decode_image

    image = picture(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    assert decode_image(stream.getvalue(), "x").size == (20, 10)
