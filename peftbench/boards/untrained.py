"""Cells that take no step of training (zero-shot, a cache of features, a probe that is solved for).

No recipe concerns them: they stand in the table of every recipe of their protocol, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.foundation.identity import canonical

# options of `train` that are read by steps of training alone
_OF_STEPS = (
    *("epochs", "batch_size", "accumulate", "label_smoothing", "drop_path", "mixup", "cutmix", "mix_prob", "erasing"),
    *("cache_features", "compile", "keep_last_batch", "select", "recompute", "head_dropout"),
)

Record = dict[str, Any]


def without_recipe(records: Iterable[Record]) -> list[Record]:
    """The records without the options that only steps of training read, each cell once whatever recipe it was asked
    with: the first in the order given."""
    kept: dict[tuple[str, Any], Record] = {}
    for record in records:
        setting = json.loads(record["setting"])
        train = {name: value for name, value in setting.get("train", {}).items() if name not in _OF_STEPS}
        bare = {name: value for name, value in setting.items() if name not in ("optim", "train")} | {"train": train}
        text = canonical(bare)
        kept.setdefault((text, record["seed"]), {**record, "setting": text, "repetition_group": text, "replaced": "{}"})
    return list(kept.values())


def stands_in(record: Mapping[str, Any], trained: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a record of `without_recipe` belongs beside these, which are one table: of its protocol and precision."""
    own, other = json.loads(record["setting"]), json.loads(trained[0]["setting"])
    precisions = [setting.get("train", {}).get("precision") for setting in (own, other)]
    return own.get("protocol") == other.get("protocol") and precisions[0] == precisions[1]
