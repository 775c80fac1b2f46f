"""Where things are: yaml files, what a user's path means, and where peftbench keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

from peftbench.foundation.errors import ConfigError, brief


def user_path(named: str | Path, option: str) -> Path:
    """A path as a user writes it, `~` meaning home. Raises `ConfigError`, naming the option it came from."""
    try:
        path = Path(named).expanduser()
        # asks nothing of the disk but whether such a name can be
        os.path.lexists(path)
        return path
    except (RuntimeError, ValueError) as error:
        reason = "it holds a null byte" if isinstance(error, ValueError) else "there is no such user or no home folder"
        raise ConfigError([f"{option}={brief(named)}: {reason}; write the path in full"]) from error


def user_folder(named: str | Path, option: str) -> Path:
    """The same for a folder that is there or may be made. Raises `ConfigError` where a file stands in its way."""
    path = user_path(named, option)
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise ConfigError([f"{option}={brief(named)}: {nearest} is no folder; choose another place"])
    return path


def default_cache_dir() -> Path:
    """The folder named by PEFTBENCH_CACHE, else ~/.cache/peftbench."""
    named = os.environ.get("PEFTBENCH_CACHE")
    return user_folder(named, "PEFTBENCH_CACHE") if named else Path.home() / ".cache" / "peftbench"


def shipped_configs() -> Path:
    """The package's own folder of yaml files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
