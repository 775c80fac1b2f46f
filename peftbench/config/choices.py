"""The yaml files of a group as plain values, without composing a whole configuration, Hydra or OmegaConf."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from peftbench.foundation.plugins import config_dir

if TYPE_CHECKING:
    from yaml import SafeLoader as Safe
else:
    # in C where PyYAML has it: ten times as fast
    Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_FLOAT, _DATE = "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
# numbers that YAML 1.1 takes for texts
_EXPONENT = re.compile(r"^[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$")
# an entry of `defaults` that lays a choice of another group ahead of the file's own values: /optim/coop@optim
OF_GROUP = re.compile(r"/(\w+)/(\w+)@\1")


class _Loader(Safe):
    """YAML as OmegaConf reads it: `1e-3` is a number, a date is a text, and no key stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key.value, str)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))
_Loader.yaml_implicit_resolvers = {
    sign: [(tag, form) for tag, form in forms if tag != _DATE]
    for sign, forms in _Loader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """What a yaml file says; `${...}` and `???` stay as they are written."""
    with path.open("rb") as stream:
        values = yaml.load(stream, _Loader)  # safe: a subclass of the safe loader
    assert values is None or isinstance(values, dict)
    return {str(key): value for key, value in (values or {}).items()}


def choices_of(group: Path) -> list[str]:
    """Names of the yaml files of a group, those in subfolders as `folder/name`."""
    return sorted(str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml"))


def shipped(group: str) -> dict[str, dict[str, Any]]:
    """Choice -> content of its yaml, with `defaults` as a list of its own."""
    folder = config_dir() / group
    return {name: content(group, name) for name in choices_of(folder)}


def content(group: str, name: str) -> dict[str, Any]:
    """What the yaml of one choice says."""
    return read_yaml(config_dir() / group / f"{name}.yaml")
