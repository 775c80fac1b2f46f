"""Every dataset yaml names a registered kind, holds known options only and repeats no default."""

from pathlib import Path

import pytest
import yaml

from peftbench.data.base import DATASETS, GROUPS
from peftbench.data.suites import SUITES
from peftbench.data.vtab.tasks import VTAB_TASKS
from peftbench.foundation.spec import build, defaults_of

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "dataset"
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))

_OF_CLIPS = [{"override /backbone": "vit_micro_16"}, {"override /train": "clips"}]


def read(name: str) -> tuple[str, dict[str, object]]:
    text = (CONFIGS / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    schema, *preferred = values.pop("defaults")
    # one that chooses a recipe for itself speaks of the whole tree
    package, place = ("_global_", "@dataset") if preferred else ("dataset", "@_here_")
    assert text.startswith(f"# @package {package}\n") and preferred in ([], _OF_CLIPS)
    return schema.removeprefix("/schema/dataset/").removesuffix(place), values


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_and_holds_departures_only(name):
    kind, values = read(name)
    cls = DATASETS.get(kind)
    spec = build(cls, values)
    defaults = defaults_of(cls)
    assert [key for key, value in values.items() if defaults[key] == value] == []
    if name not in ("hf", "cifar10_parquet"):  # hf takes its label from the data
        assert spec.label == name
    assert spec.group in GROUPS


def test_every_vtab_task_has_its_config():
    assert {f"vtab/{task}" for task in VTAB_TASKS} == {name for name in NAMES if name.startswith("vtab/")}


def test_every_dataset_of_a_suite_has_its_config_and_its_group():
    assert {name for names in SUITES.values() for name in names} <= set(NAMES)
    for suite in ("fgvc", "fewshot"):
        assert {name for name in NAMES if name.startswith(f"{suite}/")} == set(SUITES[suite])
        for name in SUITES[suite]:
            kind, values = read(name)
            assert build(DATASETS.get(kind), values).group == suite


def test_both_forms_of_cifar10_stand_in_one_column():
    specs = [build(DATASETS.get(kind), values) for kind, values in (read("cifar10"), read("cifar10_parquet"))]
    assert len({(spec.label, spec.group) for spec in specs}) == 1
