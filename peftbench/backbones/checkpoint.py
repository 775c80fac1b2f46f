"""Reading a checkpoint file: tensors and plain values only. Nothing in it is ever run or names a path elsewhere."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from peftbench.backbones.source import INDEX, checkpoint_files
from peftbench.foundation.errors import BadInput
from peftbench.foundation.system import unreadable

# A packed file may unfold to this many times its size; weights hardly shrink, and a bomb unfolds a thousandfold.
_MOST_UNFOLDED = 20
_SMALL = 1 << 24
# what the library of safetensors reads at most
_LONGEST_HEADER = 100_000_000


def _harmless() -> list[Any]:
    """What real checkpoints hold besides tensors and is plain data: `args`, and numpy's numbers."""
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray  # type: ignore[attr-defined]
    scalar, rebuild = multiarray.scalar, multiarray._reconstruct
    old = [(scalar, "numpy.core.multiarray.scalar"), (rebuild, "numpy.core.multiarray._reconstruct")]
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    return [argparse.Namespace, np.ndarray, np.dtype, scalar, rebuild, *old, *dtypes]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a .safetensors file, an index of such files, or a .pth file holds. Raises `BadInput` in one line.

    Which of them a file is its first bytes say, whatever it is called.
    Of a pickle only tensors, plain values, `argparse.Namespace` and numpy's scalars and arrays are read.
    """
    files = checkpoint_files(path)
    if len(files) > 1:
        return {name: tensor for shard in files[1:] for name, tensor in _tensors(shard).items()}
    if _is_safetensors(path) or (path.suffix == ".safetensors" and not _as_torch_saves(path)):
        if path.suffix == ".safetensors" and "-of-" in path.name:
            _refuse_single_shard(path)
        return _tensors(path)
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(content)


def refuse_bomb(path: Path) -> None:
    """Raises `BadInput` for an archive that would unfold to far more than it is; reads only its list of members."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadInput(f"{path} is a damaged archive ({error}); is the download complete?") from error
    size = path.stat().st_size
    if unfolded > _MOST_UNFOLDED * size + _SMALL:
        raise BadInput(f"{path} would unfold from {size / 1e6:.1f} MB to {unfolded / 1e6:,.0f} MB; no checkpoint does")


def _is_safetensors(path: Path) -> bool:
    """By the length of its header and the bracket that opens it; the rest may be damaged."""
    head = _head(path)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def _as_torch_saves(path: Path) -> bool:
    """Whether a file begins as the archives and pickles of torch.save do."""
    return _head(path).startswith((b"PK", b"\x80"))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise unreadable(error) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(f"{path} cannot be read as .safetensors ({first_line(error)}); is it complete?") from error


def _refuse_single_shard(path: Path) -> None:
    stem = path.name[: path.name.rindex("-of-")].rpartition("-")[0]
    index = path.with_name(f"{stem}.safetensors{INDEX}")
    where = f"set backbone.checkpoint={index}" if index.is_file() else f"fetch its index, {index.name}, and name that"
    raise BadInput(f"{path} is one shard of several; {where}")


def _unpickled(path: Path) -> Any:
    refuse_bomb(path)
    _refuse_code(path)
    try:
        # an open file, since torch goes by the name of others
        with torch.serialization.safe_globals(_harmless()), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own errors for a damaged file
        if objects := _foreign(path):
            raise BadInput(
                f"{path} holds objects that are not plain data ({', '.join(objects[:3])}) and are never loaded; where "
                "you trust it, save its tensors alone: torch.save(model.state_dict(), FILE)"
            ) from error
        # what torch says of a file that no one pickled is an advice to run it
        known = _as_torch_saves(path) and not _pickle(error)
        why = first_line(error) if known else "it is neither .safetensors nor what torch.save writes"
        raise BadInput(f"{path} cannot be read as a checkpoint ({why}); is it complete?") from error


def _pickle(error: BaseException) -> bool:
    return isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error)


def _refuse_code(path: Path) -> None:
    """TorchScript is told by the file that torch.load knows it by, before that warns and looks further."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            raise BadInput(f"{path} is an archive of numpy arrays; give it a name that ends in .npz")
        if any(name.endswith("/constants.pkl") for name in names):
            raise BadInput(
                f"{path} is TorchScript, which holds code and is never run here; where you trust it, save its tensors "
                f"alone and name that file: torch.save(torch.jit.load({str(path)!r}, 'cpu').state_dict(), 'FILE.pth')"
            )


def _foreign(path: Path) -> list[str]:
    """Names in a pickle that are refused; empty where it is no pickle at all."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError, OSError, EOFError, pickle.UnpicklingError):
        return []


def first_line(error: BaseException) -> str:
    """The line that says something: torch puts a heading on the first one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.endswith(":")]
    return (lines or [type(error).__name__])[0][:200]


def require_fit(
    path: Path,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    whose: str,
    advice: Callable[[str], str],
) -> None:
    """Raises `BadInput` where tensors of a file are missing, too many, of another shape than `own`, or not finite.

    `whose`: the shapes of `own` in words; `advice`: what to check where the tensor of a name does not fit.
    """
    for name in own:
        if name not in state:
            raise BadInput(f"{path} lacks {name}; {advice(name)}")
    for name, tensor in state.items():
        if name not in own:
            raise BadInput(f"{path} has {name}, which has no place here; {advice(name)}")
        if tensor.shape != own[name].shape:
            raise BadInput(f"{path}: {name} is {list(tensor.shape)}, {whose} {list(own[name].shape)}; {advice(name)}")
        if not bool(tensor.isfinite().all()):
            raise BadInput(f"{path}: {name} holds NaN or infinite numbers; the file is damaged")
