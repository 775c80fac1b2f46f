"""A trained classifier as one graph, for programs without this package: ONNX, and torch.export's own format."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import nn

from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.files import replace_bytes

# largest difference of logits, as a part of their largest size, that another engine's arithmetic explains
TOLERANCE = 1e-3


class _OfImages(nn.Module):
    """A model of one input by name: a graph's shapes are told by argument, and a task's model takes any number."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        return logits


def write_onnx(model: nn.Module, size: int, path: Path) -> float | None:
    """Write `images` [batch, 3, size, size] -> `logits` [batch, classes] as ONNX, for any batch size.

    Returns the largest difference of a logit between ONNX Runtime and the model, None where that is not installed.
    Raises `MissingInput` without the package onnx, `BadInput` when the two disagree; then nothing is left at `path`.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingInput("writing ONNX needs the package onnx; pip install 'peftbench[onnx]'")
    example = _images(2, size)
    partial = path.with_name(path.name + ".tmp")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            # the tracer warns of every assertion in timm about a shape, and of its own age
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _OfImages(model.cpu()).eval(),
                (example,),
                str(partial),
                dynamo=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            )
        difference = _onnx_difference(model, size, partial)
        replace_bytes(path, partial.read_bytes())
    finally:
        partial.unlink(missing_ok=True)
    return difference


def write_program(model: nn.Module, size: int, path: Path) -> float:
    """Write the model as a program of torch.export (`torch.export.load(path).module()`), for any batch size.

    Returns the largest difference of a logit between the file, loaded again, and the model. Raises `BadInput` when they
    disagree; then nothing is left at `path`.
    """
    model = model.eval().cpu()
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(_OfImages(model).eval(), (_images(2, size),), dynamic_shapes=({0: batch},))
    partial = path.with_name(path.stem + ".tmp.pt2")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.export.save(program, partial)
        again = torch.export.load(partial).module()
        with torch.no_grad():
            difference = _agreed(model(_images(3, size)), again(_images(3, size)), path)
        replace_bytes(path, partial.read_bytes())
    finally:
        partial.unlink(missing_ok=True)
    return difference


def _onnx_difference(model: nn.Module, size: int, path: Path) -> float | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = _images(3, size)
    [logits] = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        return _agreed(model(images), torch.from_numpy(logits), path)


def _agreed(expected: torch.Tensor, found: torch.Tensor, path: Path) -> float:
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise BadInput(f"{path} was not written: its logits differ from the model's by {difference:.1e}")
    return difference


def _images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
