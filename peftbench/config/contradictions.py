"""What sections of a configuration that are right each by itself say against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peftbench.config.presets import DEFAULT
from peftbench.config.protocol import ProtocolSpec
from peftbench.train.options import TrainSpec, schedule_problems


def contradictions(specs: Mapping[str, Any]) -> Iterator[str]:
    """A line for each. A section that was wrong by itself is not among `specs`, and nothing is asked of it."""
    steps = "method" not in specs or not specs["method"].trains_nothing
    if "optim" in specs and "train" in specs and steps:
        yield from schedule_problems(specs["optim"], specs["train"])
    yield from _tuning_problems(specs)
    if "train" in specs and "protocol" in specs:
        yield from _protocol_problems(specs["train"], specs["protocol"])


def _tuning_problems(specs: Mapping[str, Any]) -> Iterator[str]:
    """What contradicts choosing hyperparameters on validation images before the reported run."""
    if "tune" not in specs or not specs["tune"].active:
        return
    if "hparams" in specs and specs["hparams"].preset != DEFAULT:
        yield "hparams and tune both choose hyperparameters; give one of them"
    if "protocol" in specs and (specs["protocol"].val_split or not specs["protocol"].report_test):
        yield (
            "tune measures its trials on val200 by itself and reports the test split; leave protocol.val_split=null "
            "and protocol.report_test=true (protocol=vtab1k)"
        )


def _protocol_problems(train: TrainSpec, protocol: ProtocolSpec) -> Iterator[str]:
    """What training asks of images that the protocol does not give."""
    if train.select == "best_val" and protocol.val_split is None:
        yield "train.select=best_val needs protocol.val_split=val200 (and protocol.train_split=train800)"
    if train.augment == "jitter_flip" and protocol.resize != "crop":
        yield "train.augment=jitter_flip keeps a picture's proportions; set protocol.resize=crop, which does too"
    if train.augment == "window_flip" and protocol.resize == "squash":
        yield (
            "train.augment=window_flip cuts a part out of a larger picture; it needs protocol.resize=crop or "
            "squash_crop and protocol.crop_pct below 1"
        )
