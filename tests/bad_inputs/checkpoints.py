"""Checkpoints that are none, or none of the backbone's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftbench.backbones.source import embedded_file


def _own() -> dict[str, Tensor]:
    return load_file(embedded_file())


def _saved(place: Path, state: dict[str, Tensor]) -> Path:
    path = place.with_suffix(".safetensors")
    save_file(state, path)
    return path


def _changed(place: Path, change) -> Path:
    state = _own()
    return _saved(place, {name: change(tensor) for name, tensor in state.items()})


def make_weights_nan(place: Path) -> Path:
    return _changed(place, lambda tensor: tensor * float("nan"))


def make_weights_infinite(place: Path) -> Path:
    return _changed(place, lambda tensor: tensor / 0)


def make_weights_integer(place: Path) -> Path:
    return _changed(place, lambda tensor: tensor.to(torch.int32))


def make_weights_complex(place: Path) -> Path:
    path = place.with_suffix(".pth")
    torch.save({name: tensor.to(torch.complex64) for name, tensor in _own().items()}, path)
    return path


def make_weights_other(place: Path) -> Path:
    return _saved(place, {"layer.weight": torch.zeros(3, 3)})


def make_weights_empty(place: Path) -> Path:
    return _saved(place, {})


def make_weights_short(place: Path) -> Path:
    state = _own()
    del state[max(name for name in state if name.startswith("blocks."))]
    return _saved(place, state)


def make_weights_shapes(place: Path) -> Path:
    return _changed(place, lambda tensor: tensor[:-1].contiguous())


def make_weights_half_file(place: Path) -> Path:
    path = _saved(place, _own())
    path.write_bytes(path.read_bytes()[:-100])
    return path


def make_weights_text(place: Path) -> Path:
    path = place.with_suffix(".pth")
    path.write_text("404: not found")
    return path


def make_weights_words(place: Path) -> Path:
    path = place.with_suffix(".pth")
    path.write_text("hi there")
    return path


def make_weights_unnamed(place: Path) -> Path:
    """A half .safetensors file by no such name."""
    half = make_weights_half_file(place)
    return half.rename(half.with_suffix(".pth"))


def make_weights_renamed_npz(place: Path) -> Path:
    np.savez(place, a=np.zeros(2))
    return place.with_suffix(".npz").rename(place.with_suffix(".pth"))


def make_weights_nothing(place: Path) -> Path:
    path = place.with_suffix(".safetensors")
    path.write_bytes(b"")
    return path


def make_weights_list(place: Path) -> Path:
    path = place.with_suffix(".pth")
    torch.save([torch.zeros(2)], path)
    return path


def make_weights_pickle(place: Path) -> Path:
    path = place.with_suffix(".pth")
    torch.save({"model": Path("somewhere")}, path)
    return path


def make_weights_npz(place: Path) -> Path:
    path = place.with_suffix(".npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"nothing")
    return path


def make_weights_npz_text(place: Path) -> Path:
    path = place.with_suffix(".npz")
    path.write_text("404: not found")
    return path


def make_weights_zip(place: Path) -> Path:
    path = place.with_suffix(".pth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return path


def make_weights_bomb(place: Path) -> Path:
    return _bomb(place.with_suffix(".pth"), "archive/data/0")


def make_weights_npz_bomb(place: Path) -> Path:
    return _bomb(place.with_suffix(".npz"), "a.npy")


def make_weights_npz_objects(place: Path) -> Path:
    path = place.with_suffix(".npz")
    np.savez(path, a=np.array([Path("somewhere")], dtype=object))
    return path


def make_weights_code(place: Path) -> Path:
    """What TorchScript is told by, and nothing else of it."""
    path = place.with_suffix(".pt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    return path


def _bomb(path: Path, member: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(member, bytes(64_000_000))
    return path
