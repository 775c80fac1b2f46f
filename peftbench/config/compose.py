"""From words to one plain tree: the yaml files of the chosen parts, one over the other, and the options named over all.

It is what Hydra's composition gives for the yaml files and words that a benchmark is made of, without making every
cell's tree from nothing. Words or files that need more of Hydra (interpolation between sections, packages, deletions)
are left to Hydra (`NeedsHydra`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftbench.config.choices import OF_GROUP, choices_of, read_yaml
from peftbench.config.gate import config_dir, explained, plain_tree, register_schemas, schema
from peftbench.config.overrides import parsed, readable
from peftbench.foundation.errors import ConfigError

Tree = dict[str, Any]

_HEADER = re.compile(r"^# @package (\w+)$", re.MULTILINE)
_SCHEMA = re.compile(r"/schema/([\w/]+)@(\w+)")
_THERE = re.compile(r"Could not append to config\. An item is already at '([\w./]+)'")
_PREFERENCE = "override /"
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class NeedsHydra(Exception):
    """Words or a yaml file say something that only Hydra understands."""


class BroughtAlong(ConfigError):
    """Words name another part than the one that a method brings along."""


class Composer:
    """Trees from words. Every yaml file is read once; the trees share values, so they are not to be changed.

    `folder`: where the groups are, each a folder of yaml files. `schema`: the defaults of a class of options by its
    place, such as `train` or `method/lora`.
    """

    def __init__(self, folder: Path, schema: Callable[[str], Tree]) -> None:
        self._folder, self._schema = folder, schema
        self._layers: dict[tuple[str, str], list[Tree]] = {}
        self._preferred: dict[tuple[str, str], dict[str, str]] = {}
        self._choices: dict[str, list[str]] = {}
        self._resolved: dict[str, Tree] = {}
        main = read_yaml(folder / "config.yaml")
        self._defaults, own_place = _groups(main.pop("defaults"))
        main.pop("hydra", None)
        if own_place != len(self._defaults):
            raise NeedsHydra("config.yaml must come behind its groups")
        self._own: Tree = main

    def tree(self, words: Iterable[str]) -> Tree:
        """Section -> options of the words' combination. Raises `NeedsHydra`."""
        chosen = dict(self._defaults)
        options: list[tuple[list[str], Any]] = []
        named: set[str] = set()
        for word in words:
            override = parsed(word)
            key = _plain_key(override)
            if (self._folder / key).is_dir():
                if key in named or key not in chosen:
                    raise NeedsHydra(word)
                named.add(key)
                chosen[key] = self._checked_choice(key, override.value())
            else:
                options.append((key.split("."), _plain_value(override)))
        for group in list(chosen):
            for other, preferred in self._preferences(group, chosen[group]).items():
                if other not in named:
                    chosen[other] = preferred
        result: Tree = {}
        for group, choice in chosen.items():
            for layer in self._choice(group, choice):
                _merge(result, layer)
        _merge(result, self._own)
        self._check_brought(result, chosen, named)
        for path, value in options:
            _set(result, path, value)
        return {name: self._without_interpolation(name, value) for name, value in result.items()}

    def _check_brought(self, tree: Tree, chosen: Mapping[str, str], named: Iterable[str]) -> None:
        """Raises `BroughtAlong` where the words name another objective or task than the one that a method has with it.

        Laid over each other they would be the one with options of the other.
        """
        problems = []
        for group in sorted({"objective", "task"} & set(named)):
            own: Tree = {}
            for layer in self._choice(group, chosen[group]):
                _merge(own, layer)
            brought = tree.get(group, {}).get("name")
            if own.get(group, {}).get("name") != brought:
                words = f"method={chosen['method']} brings {group}={brought} along, which is part of it"
                problems.append(f"{words}; leave out {group}={chosen[group]} or choose another method")
        if problems:
            raise BroughtAlong(problems)

    def _checked_choice(self, group: str, choice: Any) -> str:
        if group not in self._choices:
            self._choices[group] = choices_of(self._folder / group)
        if not isinstance(choice, str) or choice not in self._choices[group]:
            raise NeedsHydra(f"{group}={choice}")
        return choice

    def _choice(self, group: str, choice: str) -> list[Tree]:
        """What a choice lays over the tree, from the first to the last."""
        if (group, choice) not in self._layers:
            self._layers[group, choice] = self._read(group, choice)
        return self._layers[group, choice]

    def _preferences(self, group: str, choice: str) -> dict[str, str]:
        """Group -> what a choice takes of a group ahead of its own, unless the words name one."""
        self._choice(group, choice)
        return self._preferred.get((group, choice), {})

    def _read(self, group: str, choice: str) -> list[Tree]:
        path = self._folder / group / f"{choice}.yaml"
        header = _HEADER.search(path.read_text(encoding="utf-8"))
        package = header.group(1) if header else "?"
        if package not in ("_global_", group):
            raise NeedsHydra(f"{path}: package {package}")
        values = read_yaml(path)
        layers: list[Tree] = []
        for entry in values.pop("defaults", []):
            schema = _SCHEMA.fullmatch(entry) if isinstance(entry, str) else None
            if schema is not None:
                place = package if schema[2] == "_here_" else schema[2]
                layers.append(_at(place, self._schema(schema[1])))
            elif package == "_global_" and isinstance(entry, str) and (other := OF_GROUP.fullmatch(entry)):
                layers += self._read(other[1], other[2])
            elif package == "_global_" and _prefers(entry, list(self._defaults)[: list(self._defaults).index(group)]):
                [(key, preferred)] = entry.items()
                self._preferred.setdefault((group, choice), {})[key.removeprefix(_PREFERENCE)] = preferred
            elif package == "_global_" and entry in choices_of(self._folder / group):
                layers += self._read(group, entry)
                self._preferred.setdefault((group, choice), {}).update(self._preferred.get((group, entry), {}))
            else:
                raise NeedsHydra(f"{path}: {entry}")
        return [*layers, _at(package, values)]

    def _without_interpolation(self, section: str, value: Any) -> Any:
        if not _interpolates(value):
            return value
        key = json.dumps([section, value])
        if key not in self._resolved:
            try:
                alone = OmegaConf.to_container(OmegaConf.create({section: value}), resolve=True, throw_on_missing=True)
            except OmegaConfBaseException as error:
                raise NeedsHydra(str(error)) from error
            assert isinstance(alone, dict)
            self._resolved[key] = alone[section]
        return self._resolved[key]


def options_page(words: list[str]) -> str:
    """Every option of the cell that the words name, as yaml. Raises `ConfigError`."""
    text: str = OmegaConf.to_yaml(OmegaConf.create(Trees().of(words)))
    return text


class Trees:
    """The tree of any words, composed here or by Hydra."""

    def __init__(self) -> None:
        self._composer = Composer(config_dir(), schema)
        self._here: dict[tuple[str, ...], Tree] = {}
        self._by_hydra: dict[tuple[str, ...], DictConfig] = {}

    def of(self, words: Iterable[str], seed: int | str | None = None) -> Tree:
        """Section -> options; `seed` in place of the words' own. Raises `ConfigError` when they cannot be composed."""
        key = tuple(words)
        if key not in self._here and key not in self._by_hydra:
            try:
                self._here[key] = self._composer.tree(key)
            except NeedsHydra:
                self._by_hydra[key] = by_hydra(key)
        if key in self._here:
            tree = self._here[key]
            return tree if seed is None else {**tree, "seed": seed}
        whole = self._by_hydra[key]
        if seed is not None:
            whole.seed = seed
        return plain_tree(whole)


def by_hydra(words: Iterable[str]) -> DictConfig:
    """Hydra's own composition. Raises `ConfigError`: the one place where what Hydra raises becomes our message."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            return compose("config", readable(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([_appended(explained(error))]) from error


def _appended(message: str) -> str:
    """What to write in place of a `+` before an option that has a value already; other messages as they are."""
    there = _THERE.search(message)
    return f"+{there[1]}=...: a + is for what has no value yet; write {there[1]}=..." if there else message


def _groups(defaults: list[Any]) -> tuple[dict[str, str], int]:
    """Group -> choice of the first file's defaults, and how many groups stand before the file itself."""
    groups: dict[str, str] = {}
    own_place = -1
    for entry in defaults:
        if entry == "_self_":
            own_place = len(groups)
        elif isinstance(entry, dict) and len(entry) == 1:
            [(group, choice)] = entry.items()
            if not str(group).startswith("override hydra/"):
                groups[str(group)] = str(choice)
        else:
            raise NeedsHydra(f"config.yaml: {entry}")
    return groups, own_place


def _prefers(entry: Any, ahead: list[str]) -> bool:
    """Whether an entry of defaults is `override /group: choice` for one of the groups `ahead` of its own."""
    return isinstance(entry, dict) and [key.removeprefix(_PREFERENCE) for key in entry] in [[name] for name in ahead]


def _at(package: str, values: Tree) -> Tree:
    return values if package == "_global_" else {package: values}


def _plain_key(override: Override) -> str:
    key = override.key_or_group or ""
    plain = override.type == OverrideType.CHANGE and override.package is None and not override.is_sweep_override()
    if not plain or not _KEY.fullmatch(key) or key.partition(".")[0] == "hydra":
        raise NeedsHydra(str(override.input_line))
    return key


def _plain_value(override: Override) -> Any:
    value = override.value()
    if value == "???":
        raise NeedsHydra(str(override.input_line))
    return value


def _merge(into: Tree, over: Mapping[str, Any]) -> None:
    """Lay `over` over a tree of our own: groups of options are merged, everything else is replaced."""
    for key, value in over.items():
        if isinstance(value, dict):
            below = into.get(key)
            # a copy on the first touch: layers are shared between trees
            into[key] = dict(below) if isinstance(below, dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def _set(tree: Tree, path: list[str], value: Any) -> None:
    *sections, name = path
    for section in sections:
        tree = tree.get(section, None)  # type: ignore[assignment]
        if not isinstance(tree, dict):
            raise NeedsHydra(".".join(path))
    if name not in tree:
        # whether it may be added, and what to say if not, is Hydra's to know
        raise NeedsHydra(".".join(path))
    _merge(tree, {name: value})


def _interpolates(value: Any) -> bool:
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, dict):
        return any(map(_interpolates, value.values()))
    return isinstance(value, list) and any(map(_interpolates, value))
