"""Where a record comes from: code, packages, machine. Facts only, none of them part of the identity."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from peftbench.foundation.cores import cpuinfo
from peftbench.foundation.plugins import plugins_digest

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "datasets", "scikit-learn", "hydra-core")


def package_version() -> str:
    """The version of the installed package, or `source` when it runs from a checkout without installation."""
    try:
        return version("peftbench")
    except PackageNotFoundError:
        return "source"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number; digests of the plug-ins' files."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {f"plug-in {name}": digest for name, digest in plugins_digest().items()}


def git_state() -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; (None, None) outside a checkout of this package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def machine(device: torch.device, kernels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Hardware, and which `kernels` are not torch's choice (`kernels_of`), that bits depend on.

    No host name: records are shared.
    """
    facts: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    facts |= kernels or {}
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def command_words(words: Iterable[str]) -> list[str]:
    """The words of a command without those that hold a place on this machine; choices of parts hold none."""
    return [word for word in words if not _holds_place(word)]


def _holds_place(word: str) -> bool:
    name, equals, value = word.partition("=")
    if not equals:
        return _is_place(word)
    return "." in name and _is_place(value.strip("'\"[]"))


def _is_place(value: str) -> bool:
    return value.startswith(("/", ".", "~")) or Path(value).exists()


def _cpu_name() -> str:
    """The processor's name, with family and model where the system has them: rented machines say `AMD EPYC` of all."""
    name = cpuinfo("model name") or platform.processor() or platform.machine()
    family, model = cpuinfo("cpu family"), cpuinfo("model\t")
    return f"{name} (family {family}, model {model})" if family and model else name
