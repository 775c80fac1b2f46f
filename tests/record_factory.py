"""Small valid records for tests of everything that reads records."""

from __future__ import annotations

import copy
from typing import Any

from peftbench.foundation.identity import fingerprint
from peftbench.records.record import RunRecord

GROUPS = {"cifar100": "natural", "dtd": "natural", "eurosat": "specialized", "dmlab": "structured"}


def record_values(
    *,
    method: str = "lora",
    remark: str = "",
    dataset: str = "cifar100",
    accuracy: float | None = 0.5,
    seed: int = 0,
    backbone: str = "vit_b16",
    protocol: str = "vtab1k",
    group: str | None = None,
    method_params: int = 290_000,
    head_params: int = 76_900,
    membership: str = "vtab1k-official:folder",
    test_digest: str = "d2",
    weights: str = "w1",
    options: dict[str, Any] | None = None,
    tuning: dict[str, Any] | None = None,
    hparams: dict[str, Any] | None = None,
    device: str = "cpu",
    speed: float | None = 100.0,
    memory_bytes: int | None = 4_000_000,
    n: int = 10_000,
) -> dict[str, Any]:
    """The fields of a valid record as plain values; `accuracy=None` makes one that never saw the test split.

    `options` are further parts of the identity, such as `{"optim": {"lr": 0.01}}`.
    """
    correct = None if accuracy is None else round(accuracy * n)
    test = None
    if correct is not None:
        test = {"accuracy": correct / n, "mean_class_accuracy": correct / n, "loss": 1.5, "correct": correct, "n": n}
    identity = {
        "backbone": {"name": backbone, "digest": weights},
        "method": {"name": method.split(" (")[0], "label": method},
        "dataset": {"name": dataset, "membership": membership, "digest": test_digest},
        "protocol": {"name": protocol, "version": 1},
        "seed": seed,
        **copy.deepcopy(options or {}),
    }
    memory = {f"{part}_bytes": None for part in ("weights", "gradients", "optimizer", "saved")}
    return {
        "schema": 1,
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "config": {"seed": seed, "runtime": {"device": device}},
        "seed": seed,
        "labels": {
            "backbone": backbone,
            "method": method,
            "dataset": dataset,
            "group": group or GROUPS.get(dataset, "other"),
            "protocol": protocol,
            **({"remark": remark} if remark else {}),
        },
        "metrics": {"val": None, "test": test},
        "primary": "accuracy",
        "selection": {"rule": "last", "epoch": 2},
        "params": {
            "backbone": 85_798_656,
            "method": method_params,
            "head": head_params,
            "trainable": method_params + head_params,
            "share": method_params / 85_798_656,
        },
        "cost": {
            "memory": None if memory_bytes is None else {**memory, "total_bytes": memory_bytes, "batch_size": 64},
            "peak_bytes": None,
            "peak_kind": None,
            "forward_flops_per_image": 3.5e10,
            "train_flops_per_image": 1.0e11,
            "train_images_per_second": speed,
            "eval_images_per_second": speed and 3 * speed,
            "data_seconds": 0.5,
            "train_seconds": 60.0,
            "eval_seconds": 2.0,
            "adapter_bytes": 1_200_000,
            "device": device,
        },
        "curve": [
            {"epoch": 1, "loss": 2.5, "lr": 0.001, "val_accuracy": None},
            {"epoch": 2, "loss": 1.25, "lr": 0.0005, "val_accuracy": None},
        ],
        "data": {
            "membership": membership,
            "pixels": "original",
            "test": "whole",
            "classes": 100,
            "splits": {
                "train": {"name": "train800val200", "n": 1000, "digest": "d1"},
                "val": None,
                "test": {"name": "test", "n": n, "digest": test_digest} if test else None,
            },
        },
        "weights": {"id": "vit_base.in21k", "digest": weights, "source": "file"},
        "provenance": {
            "version": "0.1.0",
            "git_commit": "0" * 40,
            "git_dirty": False,
            "versions": {"torch": "2.14"},
            "machine": {"cpu": "x"},
            "started": "2025-01-02T03:04:05Z",
            "seconds": 63.0,
            "command": ["peftbench", "method=lora"],
        },
        "predictions": None,
        "adapter": None,
        "tuning": tuning,
        "hparams": hparams,
    }


def make_record(**choices: Any) -> RunRecord:
    """A valid record; see `record_values` for the choices."""
    return RunRecord(**record_values(**choices))
