"""Hyperparameters and configs of every registered method: all of them count, and all of them are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml

from peftbench.backbones.base import Backbone
from peftbench.config.gate import config_dir
from peftbench.contracts.backbones import BUILDERS, TWELVE_BLOCKS, installed, samples, suited
from peftbench.contracts.test_methods import FITTING
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.identity import fingerprint
from peftbench.foundation.spec import FAITHFULNESS, default_of, defaults_of
from peftbench.methods.base import METHODS, Method
from peftbench.tasks.model import new_head

CONFIGS = config_dir() / "method"
FIELDS = [
    (name, field)
    for name in METHODS.names()
    for field in dataclasses.fields(METHODS.get(name))
    if field.name != "towers"  # test_towers.py
]
# options that mean nothing more above a tiny width
SIZES = {"num_classes", "num_coefficients", "block_size", "num_groups", "rank", "group_size"}
# options that mean nothing without another one
BESIDE = {
    ("coop", "zeros"): {"words": "a photo of a"},
    ("gps", "whole_batches"): {"batch_size": 12},
    ("oft", "eps"): {"coft": True},
    # below half of the smaller factor of a tiny width
    ("lokr", "decompose_both"): {"rank": 2},
    # so many blocks that a small share holds one
    ("oft", "block_dropout"): {"block_size": 4},
    ("boft", "block_dropout"): {"block_size": 4},
    ("loha", "rank_dropout_scale"): {"rank_dropout": 0.5},
    ("lokr", "rank_dropout_scale"): {"rank_dropout": 0.5},
}
# options that mean something with several tasks alone, and are tested there: tests/golden/test_mmap.py
OF_SEVERAL = {("mmap", "groups")}
# ahead of which a method may do something
EPOCHS = 6
every_field = pytest.mark.parametrize(("name", "field"), FIELDS, ids=lambda value: getattr(value, "name", value))


def start_options(name: str, option: str) -> dict[str, Any]:
    """Options that `option` departs from: small ones where a method looks at images first or takes whole tiny
    matrices, and what it needs beside it."""
    fitting = FITTING.get(name, {})
    small = fitting if METHODS.get(name).observes or not SIZES.isdisjoint(fitting) else {}
    return small | BESIDE.get((name, option), {})


def start(name: str, option: str) -> Method:
    return METHODS.get(name)(**start_options(name, option))


def candidates(field: dataclasses.Field[Any], value: Any) -> list[Any]:
    """Values that differ from `value`, likely ones first."""
    choices = field.metadata.get("choices")
    words = list(choices() if callable(choices) else choices or [])
    if isinstance(value, (list, tuple)):
        if not value and not words:  # sizes that may be given block by block
            return [[1] * 12]
        numbers = [[item / 2 for item in value], [item + 1 for item in value]] if not words and all(value) else []
        return [[word] for word in words if [word] != list(value)] + numbers
    if words:
        return [word for word in words if word != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [words for words in ("a photo of a", "a drawing of one") if words != value]
    if value is None:
        return [1, 2, 0.5, True]
    return (
        [value + 1, value - 1, 2 * value]
        if isinstance(value, int)
        else [value * 1.5 + 0.1, value / 2 + 0.01, value / 2]
    )


def changed(name: str, field: dataclasses.Field[Any]) -> list[Method]:
    """The starting method with this one option changed, for each candidate value that is allowed."""
    methods, default = [], getattr(start(name, field.name), field.name)
    for value in candidates(field, default):
        if value == default:
            continue
        try:
            methods.append(METHODS.get(name)(**(start_options(name, field.name) | {field.name: value})))
        except (ConfigError, TypeError):
            continue
    assert methods, f"no allowed value other than the default is known for {name}.{field.name}"
    return methods


class Slopes:
    """A survey of one batch; what it asks for is a small sum of features."""

    clip_norm = None

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.tensors: list[torch.Tensor] = [tensor for _, tensor in backbone.trainable]

    def __call__(self, epoch: int) -> Iterator[tuple[float, int]]:
        self._backbone.zero_grad()
        loss = self._backbone.eval()(samples(self._backbone, 2, seed=epoch)).sum()
        loss.backward()
        yield loss.item(), 2
        self._backbone.zero_grad()


def behaviour(method: Method, backbone: str) -> torch.Tensor | None:
    """Features in training mode after the trainable tensors were moved, and logits of a head as the method has it.

    Behind what it does ahead of some epochs, where it does anything. None where the method does not apply.
    """
    try:
        built = installed(method, suited(type(method), backbone))
    except NotApplicable:
        return None
    ahead = method.before_epochs(built, Slopes(built), 0)
    for epoch in range(EPOCHS if ahead is not None else 0):
        ahead(epoch)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _, tensor in built.trainable:
            # not by one number: copies of a tensor, such as experts of one origin, have to part
            tensor.add_(torch.linspace(0.08, 0.12, tensor.numel(), device=tensor.device).view_as(tensor))
        features: torch.Tensor = built.train()(samples(built, 2))
        # not after as many draws as the method made
        torch.manual_seed(0)
        logits: torch.Tensor = method.on_head(new_head(16, 4))(torch.linspace(-1, 1, 32).view(2, 16))
    return torch.cat([features.flatten(), logits.flatten().to(features)])


def rates(method: Method) -> list[float]:
    """What an option may change beside the function: the learning rates of tensors."""
    return [
        method.lr_scale(f"net.blocks.0.attn.qkv.deltas.0.{tensor}")
        for tensor in ("down", "up", "orchestrated.inside.weight")
    ]


@pytest.mark.parametrize("name", METHODS.names())
def test_the_size_option_is_a_whole_number_of_the_method(name: str) -> None:
    cls = METHODS.get(name)
    assert not cls.size_option or type(defaults_of(cls).get(cls.size_option)) is int


@every_field
def test_changing_an_option_changes_identity_and_fingerprint(name: str, field: dataclasses.Field[Any]) -> None:
    default = start(name, field.name)
    for method in changed(name, field):
        assert method.identity() != default.identity()
        assert fingerprint(method.identity()) != fingerprint(default.identity())
        assert method.label != default.label


@every_field
def test_every_option_does_something(name: str, field: dataclasses.Field[Any]) -> None:
    if (name, field.name) in OF_SEVERAL:
        pytest.skip("needs data of several tasks")
    default = start(name, field.name)
    for backbone in (*BUILDERS, *TWELVE_BLOCKS):
        expected = behaviour(default, backbone)
        for method in changed(name, field) if expected is not None else []:
            found = behaviour(method, backbone)
            if found is not None and (not torch.equal(found, expected) or rates(method) != rates(default)):
                return
    pytest.fail(f"method.{field.name} of {name} changes nothing on any backbone")


@every_field
def test_a_value_out_of_range_is_refused_by_name(name: str, field: dataclasses.Field[Any]) -> None:
    limits = field.metadata
    outside: list[Any] = ["no-such-choice"] if "choices" in limits else []
    outside += [limits[key] + step for key, step in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)) if key in limits]
    value = default_of(field)
    free = isinstance(value, (bool, float, str))
    assert outside or free, f"method.{field.name} has neither limits nor choices"
    for bad in outside:
        with pytest.raises(ConfigError, match=rf"method\.{field.name} "):
            METHODS.get(name)(**{field.name: [bad] if isinstance(value, (list, tuple)) else bad})


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_states_its_facts(name: str) -> None:
    cls = METHODS.get(name)
    assert cls.__doc__ and cls.family and cls.version >= 1
    assert cls.paper or cls.family == "selection", "an added module comes from a paper"
    assert cls().label == name


@pytest.mark.parametrize("name", METHODS.names())
def test_an_adapted_method_says_in_one_sentence_what_was_changed(name: str) -> None:
    cls = METHODS.get(name)
    assert cls.faithfulness in FAITHFULNESS
    assert bool(cls.adapted) == (cls.faithfulness == "adapted")
    assert not cls.adapted or (cls.adapted.endswith(".") and ". " not in cls.adapted and "\n" not in cls.adapted)
    assert cls.adapted in cls().remark and bool(cls().remark) == (cls.faithfulness != "as the paper")


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_has_a_config_that_names_its_schema(name: str) -> None:
    assert (CONFIGS / f"{name}.yaml").is_file(), f"write configs/method/{name}.yaml"
    assert f"/schema/method/{name}@method" in yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["defaults"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_method_config_sets_only_the_method_and_the_optimiser(path: Any) -> None:
    text = path.read_text()
    assert text.startswith("# @package _global_\n")
    content = yaml.safe_load(text)
    assert set(content) <= {"defaults", "method", "optim"}
    assert path.stem in METHODS.names() or content["defaults"][0] in METHODS.names(), "a second name names the first"
