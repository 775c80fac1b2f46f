"""What there is to choose from, as tables: methods, data sets, backbones."""

from __future__ import annotations

from typing import Any

import pandas as pd

from peftbench.backbones.options import BackboneSpec
from peftbench.config.choices import choices_of, shipped
from peftbench.config.datasets import shipped_dataset
from peftbench.data.base import DatasetSpec
from peftbench.data.standing import DOWNLOAD, standing
from peftbench.foundation.errors import ConfigError
from peftbench.foundation.plugins import config_dir
from peftbench.foundation.spec import build
from peftbench.methods.base import METHODS, Method


def methods() -> pd.DataFrame:
    """One row per method: `method`, `family`, `paper`, `options` (name -> default), `merges` (folds exactly into the
    weights), `looks_first` (at training images, before it is attached), `faithfulness` and what was `adapted`.
    """
    rows = []
    for name in METHODS.names():
        cls = METHODS.get(name)
        rows.append(
            {
                "method": name,
                "family": cls.family,
                "paper": cls.paper,
                "options": cls().identity(),
                "merges": cls.mergeable,
                "looks_first": cls.observes,
                "faithfulness": cls.faithfulness,
                "adapted": cls.adapted,
            }
        )
    return pd.DataFrame(rows)


def datasets() -> pd.DataFrame:
    """One row per data set: `dataset` (as in `dataset=...`), `group`, `state` (ready, download, missing, damaged) and
    `advice`, the first sentence of what to do where it is not ready.
    """
    rows = []
    for name in choices_of(config_dir() / "dataset"):
        spec = build(*shipped_dataset(name))
        assert isinstance(spec, DatasetSpec)
        found = standing(spec)
        advice = "fetched at first use" if found.state == DOWNLOAD else str(found.problem or "").partition(". ")[0]
        rows.append({"dataset": name, "group": spec.group, "state": found.state, "advice": advice})
    return pd.DataFrame(rows)


def backbones() -> pd.DataFrame:
    """One row per backbone: `backbone` (as in `backbone=...`), timm's `model`, where the `weights` come from
    (`embedded` ones ship with the package), `img_size` in pixels (None: the model's own).

    Any other vision transformer, Swin or ConvNeXt of timm is `backbone=timm backbone.model=NAME`.
    """
    rows = []
    for name, values in shipped("backbone").items():
        values.pop("defaults")
        facts = {**vars(BackboneSpec()), **values}
        rows.append({"backbone": name} | {key: facts[key] for key in ("model", "weights", "img_size")})
    return pd.DataFrame(rows)


def method_called(name: str) -> tuple[type[Method], dict[str, Any]]:
    """The class behind a choice of `method=...`, a second name of one included, and the options that its yaml sets.

    Raises `ConfigError` with the nearest names.
    """
    if not isinstance(name, str):
        raise ConfigError([f"a method is a name of peftbench.methods(), got {name!r}"])
    known = shipped("method")
    if name not in known:
        return METHODS.get(name), {}
    values = known[name]
    first, *_ = values["defaults"]
    if first in known:
        cls, options = method_called(first)
    else:
        cls, options = METHODS.get(first.removeprefix("/schema/method/").removesuffix("@method")), {}
    return cls, options | values.get("method", {})
