"""Plug-ins: methods, data sets, backbones and tasks from outside the package, with their yaml files.

A plug-in is a folder named in `PEFTBENCH_PLUGINS` (several are divided like `PATH`), or an installed package with an
entry point of the group `peftbench.plugins` that names it. A folder's `*.py` files are imported, a package is imported
as a whole; what they add to a registry is there from then on. `configs/<group>/<name>.yaml` inside it are choices.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import yaml

from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError, brief
from peftbench.foundation.location import default_cache_dir, shipped_configs

VARIABLE = "PEFTBENCH_PLUGINS"
ENTRY_POINTS = "peftbench.plugins"
# of the names under which files of plain folders are imported
_PREFIX = "peftbench_plugin_"


@dataclass(frozen=True)
class Plugin:
    """`folder` holds its code and perhaps `configs/`; `package` is its import name, "" for a plain folder."""

    folder: Path
    package: str = ""

    @property
    def name(self) -> str:
        """What records call it."""
        return self.package or self.folder.name

    @property
    def configs(self) -> Path:
        return self.folder / "configs"

    def files(self) -> list[Path]:
        """Everything that can change what it does, in order of name."""
        return sorted([*self.folder.rglob("*.py"), *self.configs.rglob("*.yaml")])


def plugins() -> tuple[Plugin, ...]:
    """All plug-ins of this process. Raises `MissingInput` for a folder that is not there."""
    return _plugins(os.environ.get(VARIABLE, ""))


@cache
def _plugins(variable: str) -> tuple[Plugin, ...]:
    found = []
    for name in filter(None, variable.split(os.pathsep)):
        folder = Path(name).expanduser().absolute()
        if not folder.is_dir():
            raise MissingInput(f"{VARIABLE}={name}: there is no such folder")
        found.append(Plugin(folder))
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.value):
        try:
            spec = importlib.util.find_spec(entry.value)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(f"the entry point {entry.name} of {ENTRY_POINTS} names {entry.value}, which is no package")
        found.append(Plugin(Path(next(iter(spec.submodule_search_locations))), entry.value))
    return tuple(found)


def own_parts() -> str:
    """What to say behind a name that is like no known one: where parts of one's own are read from."""
    named = os.environ.get(VARIABLE)
    now = f", now {brief(named)}" if named else ""
    return f"; one of your own is read from the folders that {VARIABLE} names{now}"


def load_plugins() -> None:
    """Import all plug-ins, once each. Raises `BadInput` naming the file that cannot be imported."""
    for plugin in plugins():
        for name, path in _modules(plugin):
            if name not in sys.modules:
                _load(name, path)


def _modules(plugin: Plugin) -> list[tuple[str, Path]]:
    if plugin.package:
        # what cannot be imported is named by `_load`
        inner = pkgutil.walk_packages([str(plugin.folder)], f"{plugin.package}.", onerror=lambda name: None)
        return [(plugin.package, plugin.folder), *((module.name, plugin.folder) for module in inner)]
    files = sorted(path for path in plugin.folder.glob("*.py") if not path.name.startswith(("_", "test_", "conftest")))
    return [(f"{_PREFIX}{_mark(plugin.folder)}_{path.stem}", path) for path in files]


def _mark(folder: Path) -> str:
    """Keeps two folders apart that hold files of one name."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:8]


def _load(name: str, path: Path) -> None:
    try:
        if path.suffix != ".py":
            importlib.import_module(name)
            return
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except PeftbenchError:
        raise
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise BadInput(f"the plug-in {path} cannot be imported: {type(error).__name__}: {error}") from error


def plugin_of(module: str) -> Plugin | None:
    """The plug-in that a module of this name was imported from; None for one of the package's own."""
    for plugin in plugins():
        prefix = f"{plugin.package}." if plugin.package else f"{_PREFIX}{_mark(plugin.folder)}_"
        if f"{module}.".startswith(prefix):
            return plugin
    return None


def blamed(error: BaseException) -> str:
    """What an error that nobody foresaw is a fault of: the plug-in in whose code it was raised, or this package."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    code = at.tb_frame if at is not None else None
    if code is None or plugin_of(str(code.f_globals.get("__name__"))) is None:
        return "peftbench"
    return f"the plug-in {code.f_code.co_filename}, line {at.tb_lineno if at else 0}"


def config_dir() -> Path:
    """The folder of yaml files: the package's own, and those of the plug-ins among them."""
    return with_plugin_configs(shipped_configs())


def with_plugin_configs(shipped: Path) -> Path:
    """The folder of yaml files with those of the plug-ins among them: `shipped` itself where they have none.

    Raises `BadInput` when a plug-in's yaml has the place of another or cannot be read.
    """
    return _joined(shipped, plugins()) if any(plugin.configs.is_dir() for plugin in plugins()) else shipped


def _joined(shipped: Path, found: tuple[Plugin, ...]) -> Path:
    """One folder of copies, in the cache under a digest of their content."""
    files: dict[str, Path] = {}
    digest = hashlib.sha256()
    for folder in (shipped, *(plugin.configs for plugin in found)):
        for path in sorted(folder.rglob("*.yaml")):
            place = str(path.relative_to(folder))
            if place in files:
                raise BadInput(f"{path} has the name of {files[place]}; give it another")
            if folder is not shipped:
                _check(path)
            files[place] = path
            digest.update(f"{place}\n".encode() + path.read_bytes())
    target = default_cache_dir() / "configs" / digest.hexdigest()[:16]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=target.parent))
        for place, path in files.items():
            (draft / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, draft / place)
        try:
            draft.rename(target)
        except OSError:
            # another process was faster with the same content
            shutil.rmtree(draft)
    return target


def _check(path: Path) -> None:
    """Raises `BadInput` for a yaml file that Hydra would stumble over, or put where nobody looks."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    defaults = values.get("defaults") if isinstance(values, dict) else None
    if not isinstance(defaults, list) or not defaults:
        raise BadInput(f"{path} has no list 'defaults', which names the schema of its options")
    outside = [entry for entry in map(str, defaults) if "@" in entry and not entry.endswith("@_here_")]
    if outside and not re.search(r"^# @package _global_\s*$", text, re.MULTILINE):
        raise BadInput(f"{path} lacks its first line '# @package _global_', without which {outside[0]} lies elsewhere")


def plugins_digest() -> dict[str, str]:
    """Name of each plug-in -> digest of its files, for what records say of the code that made them."""
    # folders of one name count together
    digests = {plugin.name: hashlib.sha256() for plugin in plugins()}
    for plugin in plugins():
        for path in plugin.files():
            digests[plugin.name].update(str(path.relative_to(plugin.folder)).encode() + path.read_bytes())
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}
