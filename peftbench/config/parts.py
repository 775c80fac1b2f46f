"""Parts by name: methods, objectives and tasks are loaded, to be run, or in outline, which is enough for planning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from peftbench.foundation.outline import NoOutline, OutlineRegistry, outline
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import Spec, build

if TYPE_CHECKING:
    from peftbench.config.launcher import Launcher
    from peftbench.data.base import DatasetSpec
    from peftbench.methods.base import Method
    from peftbench.objectives.base import Objective
    from peftbench.tasks.base import Task


def methods() -> Registry[Method]:
    """All methods, to be attached. Imports torch."""
    from peftbench.methods.base import METHODS

    return METHODS


def objectives() -> Registry[Objective]:
    """All objectives, to be trained with. Imports torch."""
    from peftbench.objectives.base import OBJECTIVES

    return OBJECTIVES


def tasks() -> Registry[Task]:
    """All tasks, to be trained for. Imports torch."""
    from peftbench.tasks.base import TASKS

    return TASKS


def datasets() -> Registry[DatasetSpec]:
    """All kinds of data sets."""
    from peftbench.data.base import DATASETS

    return DATASETS


def launchers() -> Registry[Launcher]:
    """All launchers."""
    from peftbench.config.launcher import LAUNCHERS

    return LAUNCHERS


LOADED: dict[str, Callable[[], Registry[Any]]] = {"method": methods, "objective": objectives, "task": tasks}
# sections whose class is chosen by a name inside them, under this key
NAMED: dict[str, tuple[str, Callable[[], Registry[Any]]]] = {
    **{section: ("name", registry) for section, registry in LOADED.items()},
    "dataset": ("kind", datasets),
    "launcher": ("kind", launchers),
}
OUTLINED = {
    "method": ("peftbench.methods.base", "METHODS"),
    "objective": ("peftbench.objectives.base", "OBJECTIVES"),
    "task": ("peftbench.tasks.base", "TASKS"),
}


def loaded(section: str, name: str) -> type[Spec]:
    """The class of a method, objective or task. Raises `ConfigError` with the nearest names."""
    found: type[Spec] = LOADED[section]().get(name)
    return found


def outlined(section: str, name: str) -> type[Spec]:
    """The same in outline: fields, limits, checks and class facts. Loaded where it has no outline, as other parts."""
    if section not in OUTLINED:
        cls: type[Spec] = NAMED[section][1]().get(name)
        return cls
    module, attribute = OUTLINED[section]
    try:
        registry: OutlineRegistry[Any] = getattr(outline(module), attribute)
        found: type[Spec] = registry.find(name)
        return found
    except NoOutline:
        return loaded(section, name)


def build_outlined(section: str, name: str, values: Mapping[str, Any]) -> Spec:
    """The options of a method, objective or task, checked as `build` does. Raises `ConfigError`."""
    cls = outlined(section, name)
    try:
        return build(cls, dict(values))
    except NoOutline:
        # a check that needs what is heavy
        return build(loaded(section, name), dict(values))
