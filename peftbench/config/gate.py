"""The gate between Hydra and the program: an untyped tree goes in, frozen objects or one list of problems come out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from peftbench.backbones.options import BackboneSpec
from peftbench.config.contradictions import contradictions, unheard
from peftbench.config.having import had_by
from peftbench.config.launcher import Launcher
from peftbench.config.parts import LOADED, NAMED, build_outlined, outlined
from peftbench.config.presets import DEFAULT, HparamsSpec, apply_preset
from peftbench.config.protocol import ProtocolSpec
from peftbench.config.runtime import RuntimeSpec
from peftbench.config.tuning import TuneSpec, for_method
from peftbench.data.base import DatasetSpec
from peftbench.foundation.errors import ConfigError, brief, did_you_mean
from peftbench.foundation.plugins import config_dir as config_dir
from peftbench.foundation.spec import Spec, build, defaults_of
from peftbench.train.options import OptimSpec, TrainSpec

if TYPE_CHECKING:
    from peftbench.methods.base import Method
    from peftbench.objectives.base import Objective
    from peftbench.tasks.base import Task

FIXED: dict[str, type[Spec]] = {
    "backbone": BackboneSpec,
    "protocol": ProtocolSpec,
    "optim": OptimSpec,
    "train": TrainSpec,
    "runtime": RuntimeSpec,
    "hparams": HparamsSpec,
    "tune": TuneSpec,
}
# what a cell cannot be without; `tune`, `hparams`, `objective` and `launcher` came later
NEEDED = ("backbone", "method", "dataset", "protocol", "optim", "train", "runtime", "seed")


@dataclass(frozen=True)
class RunConfig:
    """One cell: everything that can change its numbers. Method, objective and task in outline cannot be run."""

    backbone: BackboneSpec
    method: Method
    dataset: DatasetSpec
    protocol: ProtocolSpec
    optim: OptimSpec
    train: TrainSpec
    seed: int
    hparams: HparamsSpec
    tune: TuneSpec
    objective: Objective
    task: Task

    @property
    def needs_tuning(self) -> bool:
        """Whether the hyperparameters are yet to be chosen by trials."""
        return self.tune.active and not self.hparams.replaced


class Builder:
    """Makes the options of sections, each distinct one once.

    `outline`: methods and objectives are made in outline, without torch: enough to plan a cell, not to run it.
    """

    def __init__(self, outline: bool = False) -> None:
        self._outline = outline
        self._made: dict[str, Spec | ConfigError] = {}

    def build(self, section: str, values: dict[str, Any]) -> Spec:
        """Raises `ConfigError` with every problem."""
        key = json.dumps([section, values], default=repr)
        if key not in self._made:
            try:
                self._made[key] = self._build(section, values)
            except ConfigError as error:
                self._made[key] = error
        made = self._made[key]
        if isinstance(made, ConfigError):
            raise made
        return made

    def _build(self, section: str, values: dict[str, Any]) -> Spec:
        if section in FIXED:
            return build(FIXED[section], values)
        key, registry = NAMED[section]
        values = dict(values)
        name = values.pop(key, None)
        if name is None:
            raise ConfigError(
                [f"{section}={section} has no {section}.{key}: its yaml must name a schema in its defaults list"]
            )
        if self._outline and section in LOADED:
            return build_outlined(section, str(name), values)
        return build(registry().get(str(name)), values)


def schema(place: str) -> dict[str, Any]:
    """The defaults of a class of options by its place: `train`, `method/lora`."""
    section, _, name = place.partition("/")
    if not name:
        return defaults_of(FIXED[section])
    return {NAMED[section][0]: name} | defaults_of(outlined(section, name))


@cache
def register_schemas() -> None:
    """Make every spec's defaults a node that yaml files name as `/schema/...`.

    The nodes are open plain trees on purpose: Hydra then lets any key through and the gate below, which knows the
    types, reports all problems together and names the nearest options. Hydra alone stops at the first.
    """
    store = ConfigStore.instance()
    for section, cls in FIXED.items():
        store.store(group="schema", name=section, node=_open_node(defaults_of(cls)))
    for section, (key, registry) in NAMED.items():
        for name in registry().names():
            values = {key: name} | defaults_of(registry().get(name))
            store.store(group=f"schema/{section}", name=name, node=_open_node(values))


def _open_node(values: dict[str, Any]) -> DictConfig:
    node = OmegaConf.create(values)
    OmegaConf.set_struct(node, False)
    return node


def to_run_config(tree: DictConfig, named: Collection[str] = ()) -> tuple[RunConfig, RuntimeSpec]:
    """The typed configuration of a composed tree.

    `named` holds the options and groups that the command line names (see `overrides.named_options`): a preset
    (`hparams=osu`) and tuning leave them alone. Where the tree says what a preset did (a section `hparams`, as in
    `as_tree`), it was applied before and is not again.

    Raises one `ConfigError` with every unknown option, wrong type, value out of range, and contradiction.
    """
    return from_tree(plain_tree(tree), named)


def plain_tree(tree: DictConfig) -> dict[str, Any]:
    """The values of a composed tree. Raises `ConfigError` where one is missing or refers to nothing."""
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError([explained(error)]) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def explained(error: Exception) -> str:
    """An error of Hydra or OmegaConf in one line: the innermost one, with the option where it knows which."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    option = getattr(error, "full_key", None)
    message = brief(str(error).splitlines()[0] if str(error) else type(error).__name__, 200)
    if isinstance(error, MissingMandatoryValue):
        return f"{option or 'an option'} has no value (???); give it one or leave the word out for its default"
    if isinstance(error, OmegaConfBaseException) and option:
        return f"{option}: {message}; '${{name}}' stands for the value of another option"
    return message


def from_tree(
    values: dict[str, Any], named: Collection[str] = (), builder: Builder | None = None
) -> tuple[RunConfig, RuntimeSpec]:
    """The same from plain values, such as those of `as_tree`; `builder` may make many of them in outline."""
    builder = builder or Builder()
    specs: dict[str, Any] = {}
    # configurations from before there were objectives and tasks do not name them
    values = {"objective": {"name": "none"}, "task": {"name": "classification"}, **values}
    values, problems = _with_preset(values, named, builder)
    problems += [f"the configuration has no section {name}" for name in NEEDED if name not in values]
    for section, value in values.items():
        try:
            if section in FIXED or section in NAMED:
                specs[section] = builder.build(section, _mapping(section, value))
            elif section == "seed":
                specs["seed"] = _seed(value)
            else:
                problems.append(f"unknown option {section}{did_you_mean(section, [*FIXED, *NAMED, 'seed'])}")
        except ConfigError as error:
            problems.extend(problem + had_by(problem) for problem in error.problems)
    problems += [*contradictions(specs), *unheard(specs, named)]
    if problems:
        raise ConfigError(problems)
    # configurations from before there was tuning have no such section
    specs["tune"] = for_method(specs.get("tune", TuneSpec()), specs["method"].size_option, named)
    runtime = specs.pop("runtime")
    specs.pop("launcher", None)  # checked with the rest, but no part of a cell
    return RunConfig(**specs), runtime


def _with_preset(values: dict[str, Any], named: Collection[str], builder: Builder) -> tuple[dict[str, Any], list[str]]:
    """The values with a preset applied, and what was wrong with it; other sections are checked by the caller."""
    preset = values.get("hparams", DEFAULT)
    if isinstance(preset, dict):
        return values, []
    unfilled = {**values, "hparams": {}}
    try:
        dataset = builder.build("dataset", _mapping("dataset", values.get("dataset")))
    except ConfigError:
        return unfilled, []
    assert isinstance(dataset, DatasetSpec)
    try:
        return apply_preset(values, str(preset), dataset.label, named), []
    except ConfigError as error:
        return unfilled, error.problems


def launcher_of(values: Mapping[str, Any]) -> Launcher:
    """The launcher of a tree, which `from_tree` has accepted."""
    launcher = Builder().build("launcher", _mapping("launcher", values["launcher"]))
    assert isinstance(launcher, Launcher)
    return launcher


def _mapping(section: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            [
                f"{section} must be a group of options, got {brief(repr(value))}; "
                f"options are written {section}.<name>=<value>"
            ]
        )
    return value


def _seed(value: Any) -> int:
    if isinstance(value, int) and value >= 2**63:
        raise ConfigError(["seed must be below 2^63, which is what tables hold"])
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError([f"seed must be a whole number of at least 0, got {brief(repr(value))}"])
    return value


def option_of(config: RunConfig, name: str) -> Any:
    """The value of an option by its name on the command line, such as `optim.lr`."""
    section, _, option = name.partition(".")
    return getattr(getattr(config, section), option)


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """The configuration with some options set by their names, checked as the gate checks them."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        section, _, option = name.partition(".")
        sections.setdefault(section, {})[option] = value
    specs = {section: dataclasses.replace(getattr(config, section), **set_) for section, set_ in sections.items()}
    return dataclasses.replace(config, **specs)


def as_tree(
    config: RunConfig, runtime: RuntimeSpec, plain: Callable[[Any], dict[str, Any]] = dataclasses.asdict
) -> dict[str, Any]:
    """The resolved configuration as plain values, in the form `to_run_config` reads; `plain` gives a section's."""
    tree: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        tree[field.name] = plain(value) if isinstance(value, Spec) else value
    tree["method"] = {"name": config.method.name} | tree["method"]
    tree["dataset"] = {"kind": config.dataset.name} | tree["dataset"]
    for section, part in (("objective", config.objective), ("task", config.task)):
        options = tree.pop(section)
        if not part.plain:
            tree[section] = {"name": part.name} | options
    tree["runtime"] = plain(runtime)
    return tree


def without_locations(tree: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """The tree without what only this machine knows: paths to inputs, and the whole runtime section."""
    kept = {section: value for section, value in tree.items() if section != "runtime"}
    for field in dataclasses.fields(config):
        spec = getattr(config, field.name)
        if isinstance(spec, Spec) and field.name in kept:
            places = {option.name for option in dataclasses.fields(spec) if option.metadata.get("location")}
            kept[field.name] = {key: value for key, value in kept[field.name].items() if key not in places}
    return kept
