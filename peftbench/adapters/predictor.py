"""An exported adapter that answers for image files: their classes and probabilities."""

from __future__ import annotations

import json
import math
import os
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from peftbench.adapters.sharing import adapter_facts, task_of, with_adapter
from peftbench.backbones.build import build_backbone
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import ships
from peftbench.data.pixels.decode import decode_image, to_rgb_or_grey
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.folder import SUFFIXES
from peftbench.foundation.device import pick_device
from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError, settled_by_a_record
from peftbench.foundation.system import system_problem, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 64

# told of every image and folder that cannot be read; what returns goes on without it
Refused = Callable[[PeftbenchError], None]


def stop(error: PeftbenchError) -> NoReturn:
    """The answer to what cannot be read where nothing may be left out: raises it."""
    raise error


@dataclass(frozen=True)
class Prediction:
    """The likeliest class of one file and its probability; `probabilities` has those of all classes, in their order."""

    file: Path
    label: str
    probability: float
    probabilities: tuple[float, ...]


class Predictor:
    """The classifier of an exported file, with its image preparation: `predictor("photo.jpg")`, a folder, or a list."""

    def __init__(self, path: Path | str, checkpoint: Path | str | None = None, device: str = "auto") -> None:
        """`checkpoint` names the backbone's weights where they neither ship with the package nor come from timm.

        Raises `MissingInput` for what is not here, `BadInput` for a file that is no exported adapter, `ConfigError`
        for a device that is not here.
        """
        self.facts = adapter_facts(path)
        task = task_of(self.facts, path)
        if task != "classification":
            raise BadInput(f"{path} was trained for {task}; only classifiers predict classes")
        self.class_names: tuple[str, ...] = tuple(self.facts["class_names"])
        self.transform, mean, std = _preparation(self.facts["images"], path)
        self._upright = self.facts["images"].get("apply_exif", False) is True
        self.device = pick_device(device, "device")
        with settled_by_a_record():
            net = build_backbone(backbone_of(self.facts["backbone"], checkpoint)).net
        self.model = with_adapter(net, path).to(self.device)
        self._mean, self._std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (mean, std))

    def __call__(self, files: Path | str | Sequence[Path | str]) -> list[Prediction]:
        """One prediction for each image, in order; images of a folder in order of name.

        Raises `MissingInput` for a file that is not there, `BadInput` naming one that is no image, or for what is no
        path. `probabilities` takes pictures that are no files.
        """
        named = _items(files)
        wrong = next((item for item in named if not isinstance(item, (str, Path))), None)
        if wrong is not None:
            raise BadInput(
                f"a predictor takes paths of image files or folders, one or a list, got {type(wrong).__name__}; "
                "for pictures in memory there is .probabilities([image]), with PIL's images (Image.fromarray(array))"
            )
        return list(self.stream(image_files(named)))

    def stream(self, files: Iterable[Path], refused: Refused = stop) -> Iterator[Prediction]:
        """The same one after the other, with no more than a batch of images in memory.

        A file that is no image has no prediction, once `refused` was told of it.
        """
        batch: list[Path] = []
        for file in files:
            batch.append(file)
            if len(batch) == BATCH:
                yield from self._predicted(batch, refused)
                batch = []
        if batch:
            yield from self._predicted(batch, refused)

    def probabilities(self, images: Iterable[Image]) -> np.ndarray:
        """PIL's images -> probabilities of the classes, float32 [num_images, classes].

        Turned as their EXIF data say where the model was trained on images that were. Raises `BadInput` for what is no
        list of such images, and for pixels of more than 8 bits that are not grey.
        """
        from PIL import Image, ImageOps

        found, batch = [], []
        if not isinstance(images, Iterable) or isinstance(images, (np.ndarray, str)):
            raise _no_pictures(images)
        for image in images:
            if not isinstance(image, Image.Image):
                raise _no_pictures(image)
            batch.append(self._pixels(ImageOps.exif_transpose(image) if self._upright else image))
            if len(batch) == BATCH:
                found.append(self._forward(batch))
                batch = []
        if batch:
            found.append(self._forward(batch))
        return np.concatenate(found) if found else np.empty((0, len(self.class_names)), np.float32)

    def _predicted(self, files: list[Path], refused: Refused) -> Iterator[Prediction]:
        read, batch = [], []
        for file in files:
            try:
                batch.append(self._pixels(_image(file, self._upright)))
            except BadInput as error:
                refused(error)
            else:
                read.append(file)
        for file, row in zip(read, self._forward(batch) if batch else (), strict=True):
            best = int(row.argmax())
            yield Prediction(file, self.class_names[best], float(row[best]), tuple(row.tolist()))

    def _forward(self, batch: list[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(batch)).to(self.device)
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        with torch.inference_mode():
            probabilities: np.ndarray = self.model(images).float().softmax(dim=1).cpu().numpy()
        return probabilities

    def _pixels(self, image: Image) -> np.ndarray:
        pixels = self.transform.apply(image if image.mode in ("RGB", "L") else to_rgb_or_grey(image, "the image"))
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _no_pictures(given: object) -> BadInput:
    kind = type(given).__name__
    return BadInput(f"probabilities takes a list of PIL's images (Image.fromarray(array)), got {kind}")


def _preparation(said: dict[str, Any], path: Path | str) -> tuple[ImageTransform, list[float], list[float]]:
    """How images become what the model was trained on: squares of pixels, and their channels' mean and spread."""
    antialias, mean, std = said.get("antialias", True), said["mean"], said["std"]
    try:
        transform = ImageTransform(said["size"], said["resize"], said["interpolation"], antialias, said["crop_pct"])
    except ValueError as error:
        raise BadInput(f"{path}: how it prepares images is damaged: {error}; get the file again") from error
    if not len(mean) == len(std) == 3 or not all(map(math.isfinite, mean)) or not all(0 < s < math.inf for s in std):
        raise BadInput(f"{path}: how it prepares images is damaged: mean {mean}, std {std}; get the file again")
    return transform, [float(value) for value in mean], [float(value) for value in std]


def _image(file: Path, upright: bool) -> Image:
    try:
        data = file.read_bytes()
    except OSError as error:
        # a disk that is lost is no fault of one image
        known = system_problem(error)
        if known is not None and not isinstance(known, BadInput):
            raise known from error
        raise BadInput(f"{file}: the image cannot be read ({error.strerror})") from error
    return decode_image(data, str(file), upright)


def backbone_of(facts: dict[str, Any], checkpoint: Path | str | None = None) -> BackboneSpec:
    """The options of the backbone that an exported file names. Raises `MissingInput` when its weights must be given."""
    known: dict[str, Any] = {"title": facts["title"], "model": facts["model"], "img_size": facts["img_size"]}
    if checkpoint is not None:
        # of a file that holds raw weights and their average
        return BackboneSpec(**known, checkpoint=str(checkpoint), ema=facts.get("ema", True) is not False)
    weights = str(facts["weights"])
    if ships(facts["model"], weights):
        return BackboneSpec(**known, weights="embedded")
    if weights.startswith("timm:"):
        return BackboneSpec(**known, weights="timm")
    if weights == "none":
        return BackboneSpec(**known, weights="none")
    raise MissingInput(
        f"the weights of {facts['title']} ({facts['model']}) came from a file; name it with --checkpoint FILE"
    )


def image_files(named: Sequence[Path | str], refused: Refused = stop) -> list[Path]:
    """The images that are named, and those in and below the folders that are, in order of name, without hidden ones.

    What is not there, cannot be read or holds no image is left out once `refused` was told of it. Raises
    `MissingInput` where there is no image at all.
    """
    found: list[Path] = []
    told: list[PeftbenchError] = []

    def leave(error: PeftbenchError) -> None:
        told.append(error)
        refused(error)

    for name in named:
        path, before = Path(name).expanduser(), len(found) + len(told)
        if path.is_dir():
            found += sorted(_images_below(path, lambda error: leave(unreadable(error))))
        elif path.is_file():
            found.append(path)
        else:
            leave(MissingInput(f"there is no image and no folder at {name}"))
        if len(found) + len(told) == before:
            leave(MissingInput(f"no images in {name} (names end in .jpg, .png, ...)"))
    if not found and all(isinstance(error, MissingInput) for error in told):
        raise told[0] if told else MissingInput("no image is named")
    return found


def _images_below(folder: Path, tell: Callable[[OSError], None]) -> Iterator[Path]:
    # Path.rglob passes over what it may not read without a word
    for place, folders, names in os.walk(folder, onerror=tell):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in names:
            file = Path(place, name)
            if name[0] != "." and file.suffix.lower() in SUFFIXES and not _is_device(file):
                yield file


def _is_device(file: Path) -> bool:
    """Whether this is a pipe or the like, which never ends. What cannot be looked at says so when it is read."""
    try:
        return not stat.S_ISREG(os.stat(file).st_mode)  # noqa: PTH116
    except OSError:
        return False


def _items(named: Any) -> list[Any]:
    """What stands in a list; the thing itself where it is none, or an array, whose rows are no paths."""
    listed = isinstance(named, Iterable) and not isinstance(named, str) and not hasattr(named, "__array_interface__")
    return list(named) if listed else [named]


def snippet(path: Path | str, checkpoint: Path | None = None) -> str:
    """Three lines of Python that use an exported file; `checkpoint` as for a `Predictor`."""
    where = ", checkpoint=".join(json.dumps(str(file), ensure_ascii=False) for file in (path, checkpoint) if file)
    return f'import peftbench\nmodel = peftbench.predictor({where})\nprint(model("photo.jpg"))'


def command(path: Path | str, checkpoint: Path | None = None) -> str:
    """The command line that uses an exported file; `checkpoint` as for a `Predictor`."""
    named = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    return f"{shlex.join(['python', '-m', 'peftbench', 'predict', str(path), *named])} FILES_OR_FOLDER"
