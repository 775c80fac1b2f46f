"""What a trained cell says of its test images, as one picture: image, truth and prediction side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from peftbench.cells.measure import looking
from peftbench.cells.parts import Parts
from peftbench.config.gate import RunConfig
from peftbench.data.contact_sheet import map_picture, picture_table, strips, with_classes
from peftbench.data.maps import NUMBERED, depth_limits
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.maps import BOXES
from peftbench.train.precision import autocast

if TYPE_CHECKING:
    from PIL.Image import Image


@torch.inference_mode()
def predicted_sheet(config: RunConfig, parts: Parts, rows: int, tile: int = 128) -> Image:
    """The first `rows` test images with what was asked of them and their maps, or test clips as strips under their
    class and the predicted one.

    Raises `NotApplicable` for a class an image.
    """
    task, data, source = config.task, parts.data, parts.data.source
    if not task.reads_maps:
        if parts.model.backbone.shape.frames > 1:
            return _clips(config, parts, rows, tile // 2)
        raise NotApplicable(
            f"pictures are drawn of clips, maps, boxes and masks, and this record is of {task.name} of images"
        )
    split = data.split("test")
    batches = data.evaluation(split)
    batch = next(iter(batches.epoch(0)))
    with autocast(data.device, config.train.precision):
        outputs = looking(config, parts.model).eval()(*batches.inputs_of(batch))
    said = {name: values[:rows].float().cpu().numpy() for name, values in task.said_of(outputs, batch).items()}
    prompts, count = task.prompts_of(outputs, batch), min(rows, len(batch["index"]))
    truth = {name: np.array(split.targets[name][:count]) for name in said}
    limits = depth_limits([*truth["depth"]]) if "depth" in truth else (0.0, 1.0)
    images = split.images.read(np.arange(count)) if hasattr(split.images, "read") else np.array(split.images[:count])
    pictures = []
    for row in range(count):
        shown = [np.broadcast_to(images[row], (*images[row].shape[:2], 3))]
        if prompts is not None:
            shown.append(map_picture(BOXES, prompts[row].cpu().numpy(), shown[0], tile=tile))
        for name in said:
            values = said[name][row].astype(np.uint8) if name in NUMBERED else said[name][row]
            shown += [map_picture(name, each, shown[0], limits, tile) for each in (truth[name][row], values)]
        pictures.append(shown)
    headers = ["image", *(["prompts"] if prompts is not None else [])]
    headers += [header for name in said for header in (name.replace("class_map", "classes"), "predicted")]
    return picture_table(headers, pictures, source.class_names if with_classes(said) else (), tile)


def _clips(config: RunConfig, parts: Parts, rows: int, tile: int) -> Image:
    data, names = parts.data, parts.data.source.class_names
    raw, batches = data.source.split("test"), data.evaluation(data.split("test"))
    batch = next(iter(batches.epoch(0)))
    with autocast(data.device, config.train.precision):
        said = parts.model.eval()(*batches.inputs_of(batch)).argmax(dim=1).tolist()[:rows]
    captions = []
    for label, predicted in zip(batch["label"].tolist(), said, strict=False):
        captions.append(names[label] if label == predicted else f"{names[label]}, predicted {names[predicted]}")
    return strips([raw.read_clip(index) for index in range(len(captions))], captions, tile)
