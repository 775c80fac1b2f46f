"""Suites: one word for the datasets that are reported together."""

from __future__ import annotations

from peftbench.data.coop.tasks import COOP_SETS, IMAGENET_VARIANTS
from peftbench.data.vtab.tasks import VTAB_TASKS
from peftbench.foundation.errors import ConfigError, did_you_mean


def _vtab(*groups: str) -> tuple[str, ...]:
    return tuple(f"vtab/{task}" for task, facts in VTAB_TASKS.items() if facts.group in groups)


SUITES: dict[str, tuple[str, ...]] = {
    "vtab": _vtab("natural", "specialized", "structured"),
    "vtab/natural": _vtab("natural"),
    "vtab/specialized": _vtab("specialized"),
    "vtab/structured": _vtab("structured"),
    "fgvc": ("fgvc/cub200", "fgvc/nabirds", "fgvc/oxford_flowers", "fgvc/stanford_dogs", "fgvc/stanford_cars"),
    "fewshot": (
        "fewshot/fgvc_aircraft",
        "fewshot/oxford_pets",
        "fewshot/food101",
        "fewshot/stanford_cars",
        "fewshot/oxford_flowers102",
    ),
    "fewshot_clip": tuple(f"coop/{task}" for task in COOP_SETS),
    "imagenet_variants": tuple(f"coop/{task}" for task in IMAGENET_VARIANTS),
    # scenes, nyud and pascal_mt also with other tasks, and with task=several
    "dense": ("scenes", "camvid", "ade20k", "voc", "cityscapes", "nyud", "pascal_mt"),
    "video": ("moving_shapes", "camera_motion"),
    "micro": ("digits", "shapes_location", "shapes_orientation", "shapes_count"),
}

# What the datasets of a suite are for, where it is not classification.
_TASKS = {"dense": "segmentation"}


def suite(name: str) -> list[str]:
    """The choices of `dataset=` that make up the suite `name`, in the order tables show them.

    Raises `ConfigError` with the nearest names.
    """
    if name not in SUITES:
        raise ConfigError([f"unknown suite '{name}'{did_you_mean(name, SUITES)}"])
    return list(SUITES[name])


def task_of(names: list[str]) -> str | None:
    """The task that a sweep over these suites is for; None for classification, which needs no word.

    Raises `ConfigError` for suites of different tasks.
    """
    tasks = {_TASKS.get(name) for name in names}
    if len(tasks) > 1:
        raise ConfigError([f"+suite={','.join(names)}: suites of different tasks; sweep one after the other"])
    return tasks.pop()
