"""Boxes stay around what they were around, whatever happens to the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftbench.foundation.maps import BOXES
from peftbench.train.augment import Augment
from peftbench.train.batches import Batches
from peftbench.train.moved_boxes import moved_boxes

NUM, HEIGHT, WIDTH = 40, 24, 32
BOX = (9, 5, 21, 13)


def moved(augment: Augment) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images that show one light box, and its row, behind an epoch's augmentation."""
    left, top, right, bottom = BOX
    images = np.zeros((NUM, HEIGHT, WIDTH, 3), np.uint8)
    images[:, top:bottom, left:right] = 255
    boxes = np.zeros((NUM, 2, 6), np.float32)
    boxes[:, 0] = [*BOX, 3, 1]
    batches = Batches({"image": images}, {BOXES: boxes}, batch_size=NUM, augment=augment)
    batch = next(iter(batches.epoch(0)))
    assert not batch[BOXES][:, 1].any()
    return list(zip(batch["image"][:, 0].numpy(), batch[BOXES][:, 0].numpy(), strict=True))


@pytest.mark.parametrize(
    ("augment", "tolerance"),
    [
        (Augment("flip"), 0),
        (Augment("crop_flip", crop_padding=7), 0),
        (Augment("rrc_flip"), 2),
        (Augment("scale_crop_flip", zoom=(1.0, 1.0)), 0),
        (Augment("scale_crop_flip"), 1.01),
        (Augment("scale_crop_flip", window=16), 1.01),
    ],
)
def test_boxes_move_with_the_pixels(augment: Augment, tolerance: float) -> None:
    whole = set()
    for image, box in moved(augment):
        rows, columns = np.nonzero(image >= 0.5)
        if not box.any():
            assert min(len(set(rows)), len(set(columns))) <= 1 + tolerance
            continue
        assert box[4:].tolist() == [3, 1]
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box[:4], found, atol=tolerance)
        whole.add(tuple(box[:4]))
    assert len(whole) > 1


def test_what_is_cut_to_less_than_a_pixel_is_gone() -> None:
    boxes = torch.tensor([[[0.0, 0, 4.5, 8, 1, 0], [0, 0, 5, 8, 1, 0], [0, 0, 0, 0, 0, 0]]])
    # four pixels to the left
    draws = {"shift": torch.tensor([[4, 8]])}
    found = moved_boxes(boxes, draws, Augment("crop_flip", crop_padding=4), (16, 16))
    assert found.tolist() == [[[0.0] * 6, [0, 0, 1, 8, 1, 0], [0.0] * 6]]
