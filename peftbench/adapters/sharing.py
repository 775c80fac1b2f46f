"""Adapters for others: one file that turns a plain timm model into the classifier a record was measured with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from peftbench.adapters.file import (
    COUNTS,
    NUMBER,
    SEEDS,
    facts_in,
    file_bytes,
    has_format,
    load_adapter,
    read_adapter,
    take_findings,
)
from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.config.gate import RunConfig
from peftbench.data.pixels.transform import ImageTransform
from peftbench.foundation.errors import BadInput, ConfigError, brief
from peftbench.foundation.files import replace_bytes
from peftbench.foundation.metric import Metric
from peftbench.foundation.registry import Registry
from peftbench.foundation.spec import build
from peftbench.methods.base import METHODS, install
from peftbench.objectives import base as objectives
from peftbench.objectives.base import OBJECTIVES
from peftbench.records.record import RunRecord
from peftbench.tasks.base import TASKS, Classes, Task
from peftbench.tasks.model import TaskModel

FORMAT = "peftbench-adapter-1"
# under which name a file has the score of a record's split
SPLITS = {"test": "test", "validation": "val"}


def with_adapter(net: Any, path: Path | str, merge: bool = False) -> TaskModel:
    """A timm model with the adapter of an exported file, in evaluation mode: images [batch, 3, h, w] -> logits.

    `net` comes from `timm.create_model` with the weights and image size the adapter was trained on; it is changed in
    place and its own classifier is dropped. With `merge`, methods that fold exactly leave plain modules.

    Raises `BadInput` when the file is not an exported adapter or `net` is another model or has other weights.
    """
    path = Path(path)
    tensors, metadata = read_adapter(path)
    facts = _said(metadata, path)
    net.reset_classifier(0)
    backbone = from_timm(net, facts["backbone"]["img_size"])
    if weights_digest(net) != facts["backbone"]["digest"]:
        wanted = facts["backbone"]
        size = f" at img_size={wanted['img_size']}" if wanted["img_size"] else ""
        raise BadInput(
            f"{path} was trained on {wanted['title']} ({wanted['model']}{size}); this model has other weights"
        )
    return restored(backbone, tensors, facts, path, merge)


def restored(
    backbone: Backbone, tensors: dict[str, Tensor], facts: dict[str, Any], path: Path, merge: bool = False
) -> TaskModel:
    """`with_adapter` for tensors and facts at hand, without a look at the weights; `path` is for messages."""
    tensors = dict(tensors)
    try:
        method, objective = _named(METHODS, facts["method"]), _named(OBJECTIVES, facts["objective"])
        task = _task(facts)
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        why = error.problems[0] if isinstance(error, ConfigError) else repr(error)
        raise BadInput(f"{path}: this version cannot attach its method ({why})") from error
    classes, seed = Classes(tuple(facts["class_names"])), facts["seed"]
    own = objectives.prepare(objective, backbone, classes.num_classes, seed)
    task.prepare(backbone, classes)
    install(method, backbone, seed, take_findings(tensors))
    model = task.model(backbone, classes, seed)
    model.head = method.on_head(model.head)
    objectives.install(objective, model, own, classes.num_classes)
    load_adapter(model, tensors, path)
    if merge:
        method.merge(backbone)
    return model.eval()


def adapter_facts(path: Path | str) -> dict[str, Any]:
    """What an exported adapter says of itself: backbone, method, class names, image preparation, record, scores.

    `scores`: `test` and `validation` -> the task's primary metric -> its value, or None where the split was not
    measured. Files of earlier versions have one number under the metric's name and do not say of which split.

    Raises `BadInput` when the file is not an exported adapter.
    """
    return _said(read_adapter(Path(path))[1], path)


def task_of(facts: Mapping[str, Any], path: Path | str) -> str:
    """The name of the task that an exported file was trained for. Raises `BadInput` where it is none."""
    task = facts.get("task", {"name": "classification"})
    if not isinstance(task, dict) or not isinstance(task.get("name"), str):
        raise BadInput(
            f"{path}: what it says of itself is damaged: facts.task is {brief(repr(task))}; get the file again"
        )
    return str(task["name"])


def metric_of(facts: Mapping[str, Any]) -> Metric:
    """The number that the task of an exported file is judged by; `scores` among the facts hold it by split."""
    return _task(facts).metric


def _said(metadata: dict[str, str], path: Path | str) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise BadInput(f"{path} is not an exported adapter; write one with 'python -m peftbench export RECORD FILE'")
    return facts_in(metadata, _FACTS, Path(path), "get the file again")


# what `with_adapter` reads of a file's facts, and of which kind it must be
_FACTS: dict[str, Any] = {
    "method": {"name": str},
    "objective": {"name": str},
    "backbone": {"title": str, "model": str, "img_size": (COUNTS, type(None)), "digest": str, "weights": str},
    "class_names": [str],
    "seed": SEEDS,
    "images": {
        "size": COUNTS,
        "resize": str,
        "interpolation": str,
        "crop_pct": NUMBER,
        "mean": [NUMBER],
        "std": [NUMBER],
    },
}


def export_adapter(facts: dict[str, Any], tensors: dict[str, Tensor], target: Path) -> Path:
    """Write an adapter with all that `with_adapter` needs, and nothing that only this machine knows.

    facts: as `facts_of` gives them. tensors: those of the adapter file, findings included. Raises as the disk does.
    """
    replace_bytes(target, file_bytes(tensors, {"format": FORMAT, "facts": json.dumps(facts)}))
    return target


def is_export(path: Path) -> bool:
    """Whether a file is one of `export_adapter`, of this version or another."""
    return has_format(path, FORMAT)


def weights_digest(net: nn.Module) -> str:
    """SHA-256 (hex) over names, shapes and values of all tensors of a model without classifier."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name}:{list(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def facts_of(record: RunRecord, config: RunConfig, images: ImageTransform, digest: str) -> dict[str, Any]:
    """What a user of a record's adapter must know.

    images: how the record's images were prepared. digest: `weights_digest` of the backbone without the method.
    """
    task = {} if config.task.plain else {"task": {"name": config.task.name} | config.task.identity()}
    return {
        "record": record.fingerprint,
        "labels": record.labels,
        "seed": config.seed,
        "method": {"name": config.method.name} | config.method.identity(),
        "objective": {"name": config.objective.name} | config.objective.identity(),
        "backbone": {
            "title": config.backbone.title,
            "model": config.backbone.model,
            "img_size": config.backbone.img_size,
            "weights": record.weights["id"],
            "digest": digest,
            **({} if config.backbone.ema else {"ema": False}),
        },
        "class_names": record.data["class_names"],
        "images": {
            "size": images.size,
            "resize": config.protocol.resize,
            "crop_pct": config.protocol.crop_pct,
            "antialias": images.antialias,
            "interpolation": images.interpolation,
            "mean": record.data["mean"],
            "std": record.data["std"],
            # files of images that are taken as they lie say nothing of it
            **({"apply_exif": True} if getattr(config.dataset, "apply_exif", False) else {}),
        },
        "scores": {name: _primary(record, split) for name, split in SPLITS.items()},
        "made_by": {"version": record.provenance["version"], "git_commit": record.provenance["git_commit"]},
        **task,
    }


def _primary(record: RunRecord, split: str) -> dict[str, float] | None:
    scores = record.metrics[split]
    return None if scores is None else {record.primary: scores[record.primary]}


def _task(facts: Mapping[str, Any]) -> Task:
    found: Task = _named(TASKS, facts.get("task", {"name": "classification"}))
    return found


def _named(registry: Registry[Any], values: dict[str, Any]) -> Any:
    """The spec of a registry that `values` describe, its name among them."""
    return build(registry.get(values["name"]), {key: value for key, value in values.items() if key != "name"})
