"""A trained model of images as one graph, for programs without this package: ONNX, and torch.export's own format."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.onnx.errors import OnnxExporterError

from peftbench.foundation.errors import BadInput, MissingInput, NotApplicable, brief
from peftbench.foundation.files import check_writable, replace_bytes, unfinished

# largest difference of logits, as a part of their largest size, that another engine's arithmetic explains
TOLERANCE = 1e-3
# the tracer's word for a module that is called with other tensors than its own
_CALLED_WITH_OTHERS = "stateless API can't be used with Jitted modules"
# of one task, or of several in their order
Scores = torch.Tensor | tuple[torch.Tensor, ...]


class _OfImages(nn.Module):
    """A model of one input by name: a graph's shapes are told by argument, and a task's model takes any number.

    One tensor of scores, or those of several tasks as a tuple in their order.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Scores:
        found: Any = self.model(images)
        scores: Scores = tuple(found.values()) if isinstance(found, dict) else found
        return scores


def _names(model: nn.Module, size: int) -> list[str]:
    """What a model gives: `logits`, or the names of tasks. Raises `NotApplicable` where it asks for more."""
    with torch.no_grad():
        found = model(_images(2, size))
    if isinstance(found, dict):
        return list(found)
    if not isinstance(found, torch.Tensor):
        raise NotApplicable(
            "a graph has images in and scores out; this model also asks for boxes: write a .safetensors, which "
            "peftbench.adapters.sharing.with_adapter reads"
        )
    return ["logits"]


def write_onnx(model: nn.Module, size: int, path: Path) -> float | None:
    """Write `images` [batch, 3, size, size] -> `logits`, or scores by the name of each task, as ONNX, for any batch.

    Returns the largest difference of a score between ONNX Runtime and the model, None where that is not installed.
    Raises `MissingInput` without the package onnx, `BadInput` when the two disagree; then nothing is left at `path`.
    `NotApplicable` for a model that asks for more than images, for one with an operation that ONNX or torch's writer of
    it does not have (a Fourier transform, say), and where what torch wrote does not run on another number of images.
    """
    if importlib.util.find_spec("onnx") is None:
        raise MissingInput("writing ONNX needs the package onnx; pip install 'peftbench[onnx]'")
    model, example = model.cpu().eval(), _images(2, size)
    names = _names(model, size)
    check_writable(path)
    with unfinished(path) as partial:
        _trace(model, example, names, partial)
        difference = _onnx_difference(model, size, partial, path)
        replace_bytes(path, partial.read_bytes())
    return difference


def write_program(model: nn.Module, size: int, path: Path) -> float:
    """Write the model as a program of torch.export (`torch.export.load(path).module()`), for any batch size.

    The program gives logits, of several tasks a tuple of scores in their order. Returns the largest difference of a
    score between the file, loaded again, and the model. Raises `BadInput` when they disagree, and then nothing is left
    at `path`; `NotApplicable` for a model that asks for more than images.
    """
    model = model.eval().cpu()
    _names(model, size)
    check_writable(path)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(_OfImages(model).eval(), (_images(2, size),), dynamic_shapes=({0: batch},))
    with unfinished(path) as partial:
        torch.export.save(program, partial)
        again = torch.export.load(partial).module()
        with torch.no_grad():
            difference = _agreed(_OfImages(model)(_images(3, size)), again(_images(3, size)), path)
        replace_bytes(path, partial.read_bytes())
    return difference


def _trace(model: nn.Module, example: torch.Tensor, names: list[str], path: Path) -> None:
    """torch's graph of the model as ONNX. Raises `NotApplicable` for operations that have no form in it."""
    # the tracer warns of every assertion in timm about a shape and of its own age; torch turns a log on that is asked
    # to be off, and it prints the whole graph where an operation is missing
    with warnings.catch_warnings(), mock.patch.object(torch._C, "_jit_set_onnx_log_enabled", lambda _: None):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _OfImages(model).eval(),
                (example,),
                str(path),
                dynamo=False,
                input_names=["images"],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in ("images", *names)},
            )
        except RuntimeError as error:
            if not isinstance(error, OnnxExporterError) and _CALLED_WITH_OTHERS not in str(error):
                raise
            reason = brief(str(error).split("[Caused by")[0], 160)
            words = f"ONNX, as torch writes it, does not hold all operations of this model ({reason})"
            raise NotApplicable(f"{words}; write a .pt2, which does") from error


def _onnx_difference(model: nn.Module, size: int, written: Path, path: Path) -> float | None:
    """`written` holds the graph that is to be at `path`, which messages name."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    options = onnxruntime.SessionOptions()
    # what fails is told by its error; the log repeats it
    options.log_severity_level = 4
    images = _images(3, size)
    try:
        session = onnxruntime.InferenceSession(str(written), options, providers=["CPUExecutionProvider"])
        found = tuple(torch.from_numpy(scores) for scores in session.run(None, {"images": images.numpy()}))
    except (
        failures.Fail,
        failures.InvalidArgument,
        failures.InvalidGraph,
        failures.NotImplemented,
        failures.RuntimeException,
    ) as error:
        words = (
            f"what torch wrote of this model as ONNX does not run on any number of images ({brief(str(error), 160)})"
        )
        raise NotApplicable(f"{words}; write a .pt2, which does") from error
    with torch.no_grad():
        return _agreed(_OfImages(model)(images), found, path)


def _agreed(expected: Scores, found: Scores, path: Path) -> float:
    largest = 0.0
    for ours, theirs in zip(_as_tuple(expected), _as_tuple(found), strict=True):
        difference = float((ours - theirs).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(ours.abs().max())):
            raise BadInput(f"{path} was not written: its logits differ from the model's by {difference:.1e}")
        largest = max(largest, difference)
    return largest


def _as_tuple(scores: Scores) -> tuple[torch.Tensor, ...]:
    return scores if isinstance(scores, tuple) else (scores,)


def _images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))
