"""Whether batches can be made of a split as the options of training ask; each refusal names the option to set."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.foundation.maps import BOXES
from peftbench.train.augment import Augment
from peftbench.train.mixing import Mix
from peftbench.train.options import CUT_WHILE_READ
from peftbench.train.stored import Stored, Values

# inputs and targets that mean something to training
IMAGE, LABEL, CLASS_MAP = "image", "label", "class_map"

_NO_BATCH = (
    "train.keep_last_batch=false leaves no batch: {num} images are fewer than the batch size {batch_size}; "
    "lower train.batch_size or set train.keep_last_batch=true"
)
_NOT_READ = "{option} changes pictures while they are read; it needs images that are streamed"
_NO_MOMENTS = (
    "train.draw_frames=true takes other frames of files in every epoch; these clips come with the frames they have"
)
_NOT_WITH_MAPS = "{option} changes what an image shows at a pixel and not its maps; set {option}={off}"
_STRETCHED = (
    "train.augment=rrc_flip stretches images, which turns their normals and has no one zoom to divide their depth by; "
    "set train.augment=scale_crop_flip or flip"
)
_UPRIGHT = (
    "train.augment=scale_rotate_flip turns images, and the sides of boxes stay upright; set "
    "train.augment=scale_crop_flip or flip"
)
_NO_CLASSES = "train.cat_max_ratio looks at maps of classes, and this task reads none; leave it at 1"
_NOT_IMAGES = (
    "features cannot be augmented as images are; set train.augment=none, train.erasing=0, train.mixup=0 and "
    "train.cutmix=0, or train on the images"
)


def check_split(inputs: Mapping[str, Values], targets: Mapping[str, Values]) -> int:
    """The number of samples. Raises `BadInput` for what is no split."""
    sizes = {name: values.shape[0] for name, values in {**inputs, **targets}.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        shown = ", ".join(f"{size} {name}s" for name, size in sizes.items())
        raise BadInput(f"a split needs as many targets as inputs and at least one sample, got {shown}")
    for name, values in inputs.items():
        shape, dtype = tuple(values.shape), str(values.dtype).removeprefix("torch.")
        if dtype == "uint8" and (len(shape) not in (4, 5) or shape[-1] not in (1, 3)):
            raise BadInput(f"{name}: pixels must be uint8 [num, height, width, 1 or 3], got {list(shape)}")
        if name == IMAGE and dtype != "uint8" and "float" not in dtype:
            raise BadInput(f"{name} must be uint8 pixels or float features, got {dtype}")
    return next(iter(sizes.values()))


def check_full_batch(num_samples: int, batch_size: int) -> None:
    """Raises `ConfigError` where no batch would be full, so that dropping those that are not leaves none."""
    if num_samples < batch_size:
        raise ConfigError([_NO_BATCH.format(num=num_samples, batch_size=batch_size)])


def check_changes(
    inputs: Mapping[str, Stored], targets: Mapping[str, Stored], augment: Augment | None, mix: Mix | None
) -> None:
    """Raises `ConfigError` where augmentation or mixing cannot be done to these inputs and targets."""
    active = augment if augment is not None and augment.active else None
    _check_maps([name for name, stored in targets.items() if len(stored.shape) > 2], active, mix)
    if augment is not None and augment.cat_max_ratio < 1 and CLASS_MAP not in targets:
        raise ConfigError([_NO_CLASSES])
    pixels = [stored for stored in inputs.values() if stored.is_pixels]
    if not pixels and (active is not None or mix is not None):
        raise ConfigError([_NOT_IMAGES])
    reading = "" if augment is None else augment.while_read
    if reading and not all(stored.read_anew for stored in pixels):
        raise ConfigError([_NOT_READ.format(option=reading)])
    if augment is not None and augment.draw_frames and not all(stored.draws_frames for stored in pixels):
        raise ConfigError([_NO_MOMENTS])


def _check_maps(maps: Collection[str], augment: Augment | None, mix: Mix | None) -> None:
    """Raises `ConfigError` where images would change and the maps that belong to them could not follow."""
    if not maps:
        return
    problems = [
        _NOT_WITH_MAPS.format(option=f"train.{name}", off=0)
        for name in ("mixup", "cutmix")
        if mix and getattr(mix, name)
    ]
    if augment is not None and augment.erasing:
        problems.append(_NOT_WITH_MAPS.format(option="train.erasing", off=0))
    if augment is not None and augment.kind in CUT_WHILE_READ:
        problems.append(_NOT_WITH_MAPS.format(option="train.augment", off="scale_crop_flip"))
    if augment is not None and augment.rand_ops:
        problems.append(_NOT_WITH_MAPS.format(option="train.rand_ops", off=0))
    if augment is not None and augment.kind == "rrc_flip" and {"normals", "depth"} & set(maps):
        problems.append(_STRETCHED)
    if augment is not None and augment.kind == "scale_rotate_flip" and BOXES in maps:
        problems.append(_UPRIGHT)
    if problems:
        raise ConfigError(problems)
