"""The trained tensors of a cell as a safetensors file: method and head only, with the configuration inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from peftbench.foundation.errors import BadInput, MissingInput, brief
from peftbench.foundation.written import write_tensors
from peftbench.interventions.remade import alike, sketches
from peftbench.methods.observation import Findings
from peftbench.tasks.model import TaskModel

FINDINGS, MADE_AGAIN = "findings.", "made_again"
# of facts: what a seed may be, and sizes and counts that a model can have
SEEDS, COUNTS, NUMBER = range(2**63), range(2**20), (int, float)


def adapter_tensors(
    model: TaskModel, frozen_buffers: Iterable[Tensor], findings: Findings | None = None
) -> dict[str, Tensor]:
    """What a cell adds to the pretrained weights: trained tensors, frozen ones that the head `kept`, other buffers.

    Buffers are told apart as objects: wrapping a module changes the names below it. What follows from configuration
    and findings (buffers that are not persistent) stays out; the `findings` themselves are kept under their prefix, and
    two numbers of each tensor that is made anew from a seed or the weights, in their order.
    """
    frozen = {id(buffer) for buffer in frozen_buffers}
    kept = model.state_dict().keys()
    tensors: dict[str, Tensor] = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    tensors |= model.kept
    tensors |= {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in frozen and name in kept}
    tensors |= {FINDINGS + name: tensor for name, tensor in (findings or {}).items()}
    if told := sketches(model):
        tensors[MADE_AGAIN] = torch.stack(list(told.values()))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def take_findings(tensors: dict[str, Tensor]) -> Findings | None:
    """Remove the findings from an adapter's tensors and return them under their own names; None where it has none."""
    names = [name for name in tensors if name.startswith(FINDINGS)]
    return {name.removeprefix(FINDINGS): tensors.pop(name) for name in names} or None


def adapter_bytes(tensors: dict[str, Tensor], config: dict[str, Any], fingerprint: str) -> bytes:
    """The tensors as a file, with the cell's configuration in the metadata: for readers, nothing here believes it."""
    return file_bytes(tensors, {"config": json.dumps(config), "fingerprint": fingerprint})


def file_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Tensors and metadata as a safetensors file: the same ones give the same bytes.

    The library writes metadata in an order that changes from process to process.
    """
    content: bytes = save(tensors, metadata=metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of an adapter file. Raises `MissingInput` or `BadInput`."""
    if not path.is_file():
        raise MissingInput(f"there is no adapter at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}") from error


def has_format(path: Path, known: str) -> bool:
    """Whether a file says of itself that it is of that format; its tensors are not read."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == known
    except (SafetensorError, OSError, ValueError):
        return False


def facts_in(metadata: dict[str, str], wanted: dict[str, Any], path: Path, advice: str) -> dict[str, Any]:
    """The plain values under `facts` in a file's metadata, checked: `wanted` names what must be there.

    Of each it gives a type, a tuple of what it may be, a range of whole numbers, or a list with what each item must be.
    Raises `BadInput` with what is wrong and the `advice` what to do.
    """
    try:
        facts = json.loads(metadata["facts"])
    except (KeyError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: what it says of itself cannot be read ({error!r}); {advice}") from None
    wrong = next(_wrong(facts, wanted, "facts"), None)
    if wrong is not None:
        raise BadInput(f"{path}: what it says of itself is damaged: {wrong}; {advice}")
    result: dict[str, Any] = facts
    return result


def _wrong(value: Any, wanted: Any, name: str) -> Iterator[str]:
    if not isinstance(wanted, dict):
        if not _is(value, wanted):
            yield f"{name} is {brief(repr(value), 60)}"
        return
    if not isinstance(value, dict):
        yield f"{name} is {brief(repr(value), 60)} and not an object"
        return
    for key, kind in wanted.items():
        if key not in value:
            yield f"{name}.{key} is missing"
        else:
            yield from _wrong(value[key], kind, f"{name}.{key}")


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return any(_is(value, one) for one in wanted)
    if isinstance(wanted, list):
        return isinstance(value, list) and all(_is(item, wanted[0]) for item in value)
    if isinstance(value, bool):
        return False
    return isinstance(value, int) and value in wanted if isinstance(wanted, range) else isinstance(value, wanted)


def _require_alike(told: Tensor, here: dict[str, Tensor], path: Path) -> None:
    """Raises `BadInput` where frozen tensors that are made anew are not those that an adapter trained beside."""
    if told.shape != (len(here), 2):
        raise BadInput(f"{path} does not fit its own configuration: {MADE_AGAIN} is of another shape")
    for two, (name, own) in zip(told, here.items(), strict=True):
        if not alike(two, own):
            raise BadInput(
                f"{path} trained beside frozen tensors that come out differently here ({name}), as another processor "
                "or version of torch makes them; export the whole network where it was trained (to .onnx or .pt2)"
            )


def load_adapter(model: TaskModel, tensors: dict[str, Tensor], path: Path) -> None:
    """Put an adapter's tensors into a model of the same configuration. Raises `BadInput` naming what does not fit."""
    told, tensors = tensors.get(MADE_AGAIN), {name: own for name, own in tensors.items() if name != MADE_AGAIN}
    current = dict(model.named_parameters()) | dict(model.named_buffers())
    expected = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    unknown, missing = sorted(set(tensors) - set(current)), sorted(expected - set(tensors))
    shapes = [name for name in tensors if name in current and tensors[name].shape != current[name].shape]
    if unknown or missing or shapes:
        first = (unknown + missing + shapes)[0]
        raise BadInput(f"{path} does not fit its own configuration: {first} is unknown, missing or of another shape")
    # files of earlier versions tell nothing of them
    if told is not None:
        _require_alike(told, sketches(model), path)
    write_tensors(model, tensors)
