"""COCO's average precision, by the reference code of its authors (`pip install 'peftbench[detection]'`)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from peftbench.foundation.errors import MissingInput


def reference() -> Any:
    """The package `pycocotools`. Raises `MissingInput` where it is not installed."""
    try:
        import pycocotools.coco
        import pycocotools.cocoeval
    except ImportError as error:
        raise MissingInput(
            "average precision is computed by pycocotools, which is not here: pip install 'peftbench[detection]'"
        ) from error
    return pycocotools


def average_precision(truth: np.ndarray, found: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Numbers in 0..1 of boxes found [images, most, 6] (the last column a score) against true ones [images, most, 6].

    ap: mean over overlaps 0.5, 0.55, ..., 0.95 and over the classes that have a box to be found, of the precision at
    101 recalls; ap50, ap75 at one overlap; ar100: mean recall with 100 boxes an image; ap/<class>: of each such class.
    All 0 without a box to be found. What lies on true boxes that are not asked for counts neither way (COCO's crowds).
    """
    package = reference()
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(class_names)]
    images = [{"id": number + 1} for number in range(len(truth))]
    # the package prints how far it is
    with contextlib.redirect_stdout(io.StringIO()):
        known = _listed(package, images, categories, truth)
        said = _listed(package, images, categories, found, scored=True)
        judge = package.cocoeval.COCOeval(known, said, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [judge.params.areaRng[0]], ["all"]
        judge.params.maxDets = [100]
        judge.evaluate()
        judge.accumulate()
    # overlaps x recalls x classes, and overlaps x classes; -1 for a class without a box to be found
    precision, recall = judge.eval["precision"][..., 0, 0], judge.eval["recall"][..., 0, 0]
    present = (precision > -1).all(axis=(0, 1))
    if not present.any():
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, "ar100": 0.0}
    of_class = precision.mean(axis=(0, 1))
    return {
        "ap": float(of_class[present].mean()),
        "ap50": float(precision[0][:, present].mean()),
        "ap75": float(precision[5][:, present].mean()),
        "ar100": float(recall[:, present].mean()),
        **{f"ap/{class_names[number]}": float(of_class[number]) for number in np.flatnonzero(present).tolist()},
    }


def _listed(
    package: Any,
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    boxes: np.ndarray,
    scored: bool = False,
) -> Any:
    """Boxes [images, most, 6] as the package's lists: with a score each, or true ones that may be passed over."""
    annotations: list[dict[str, Any]] = []
    for image, row in np.argwhere((boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])).tolist():
        left, top, right, bottom, number, last = boxes[image, row].astype(np.float64).tolist()
        box = [left, top, right - left, bottom - top]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image + 1,
                "category_id": int(number) + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0 if scored else int(last),
                **({"score": last} if scored else {}),
            }
        )
    listed = package.coco.COCO()
    listed.dataset = {"images": images, "categories": categories, "annotations": annotations}
    listed.createIndex()
    return listed
