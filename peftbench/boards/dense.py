"""Numbers beside the primary one of other tasks than classes, and what several tasks at once gain over single ones."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.boards.table import Score, score
from peftbench.foundation.identity import canonical
from peftbench.foundation.metric import HIGHER, LOWER, Metric

# task -> its primary metric, and what else of its numbers a table shows under which header
PRIMARY: dict[str, Metric] = {
    "segmentation": Metric("miou"),
    "human_parts": Metric("miou"),
    "depth": Metric("rmse", LOWER, ""),
    "normals": Metric("mean_angle", LOWER, "degrees"),
    "edges": Metric("edge_f"),
    "saliency": Metric("max_f"),
    "detection": Metric("ap"),
}
SHOWN: dict[str, dict[str, str]] = {
    "segmentation": {"mean_accuracy": "mAcc", "pixel_accuracy": "aAcc", "boundary_f": "boundary F"},
    "human_parts": {"mean_accuracy": "mAcc", "pixel_accuracy": "aAcc"},
    "depth": {"abs_rel": "abs rel", "delta_1": "delta 1.25"},
    "normals": {"median_angle": "median angle", "within_11.25": "within 11.25", "within_30": "within 30"},
    "saliency": {"miou": "mIoU"},
    "promptable": {"dice": "Dice"},
    "region": {"miou": "mIoU", "dice": "Dice"},
    "detection": {"ap50": "AP50", "ap75": "AP75", "ar100": "AR100"},
    "retrieval": {
        f"{way}_r{k}": f"{words} R@{k}"
        for way, words in (("image_to_text", "image to text"), ("text_to_image", "text to image"))
        for k in (1, 5, 10)
    },
}
SEVERAL, DELTA = "several", "delta_m"
# what is no share of something
_PLAIN = ("rmse", "log_rmse", "abs_rel", "mean_angle", "median_angle", "rms_angle")

# key of comparable cells -> task -> mean primary number of full fine-tuning on that task alone
Singles = Mapping[str, Mapping[str, float]]


def delta_m(values: Mapping[str, float], singles: Mapping[str, float]) -> float:
    """Mean over tasks of the relative change against single-task training, in percent; above 0 is better.

    (1/T) sum of (-1)^l (M - S) / S with l = 1 where lower is better (Maninis et al., CVPR 2019).
    """
    changes = [
        (1 if PRIMARY[task].better == HIGHER else -1) * (value - singles[task]) / singles[task]
        for task, value in values.items()
    ]
    return 100 * statistics.fmean(changes)


def comparable(record: Mapping[str, Any]) -> str:
    """What must be equal for numbers of one task and of several to be compared: all but method, rates, seed, task."""
    identity = json.loads(record["setting"])
    decoder = {name: identity.get("task", {}).get(name) for name in ("decoder", "num_maps", "channels")}
    return canonical({name: identity.get(name) for name in ("backbone", "dataset", "protocol", "train")} | decoder)


def single_tasks(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the rows of `collect` those of full fine-tuning on one task, as `Singles`.

    Where it was done in several ways (other rates), none of them is taken.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        identity = json.loads(record["setting"])
        task = identity.get("task", {}).get("name", "")
        if task in PRIMARY and identity.get("method", {}).get("name") == "full":
            settings = found.setdefault(comparable(record), {}).setdefault(task, {})
            settings.setdefault(record["setting"], []).append(float(record["score"]))
    return {
        key: {task: statistics.fmean(*each.values()) for task, each in tasks.items() if len(each) == 1}
        for key, tasks in found.items()
    }


def beside(cells: Mapping[str, Sequence[Mapping[str, Any]]], singles: Singles) -> dict[str, Score]:
    """Header -> score (percent for shares) of a row's records by column, which is named where there are several."""
    values: dict[str, list[float]] = {}
    for column, records in cells.items():
        prefix = f"{column} " if len(cells) > 1 else ""
        for record in records:
            for header, value in _of_record(record, singles):
                values.setdefault(prefix + header, []).append(value)
    return {header: score(numbers) for header, numbers in values.items()}


def _of_record(record: Mapping[str, Any], singles: Singles) -> Iterable[tuple[str, float]]:
    others: dict[str, float] = json.loads(record["others"] or "{}")
    task = record["task"].split(" ")[0]
    if task == SEVERAL:
        parts = json.loads(record["setting"])["task"]["tasks"]
        values = {part: others[f"{part}/{PRIMARY[part].name}"] for part in parts}
        for part, value in values.items():
            yield f"{part} {PRIMARY[part].name}", _read(PRIMARY[part].name, value)
        alone = singles.get(comparable(record), {})
        if values.keys() <= alone.keys():
            yield DELTA, delta_m(values, alone)
        return
    for name, header in SHOWN.get(task, {}).items():
        if name in others:
            yield header, _read(name, others[name])


def _read(name: str, value: float) -> float:
    return value if name in _PLAIN else 100 * value


def notes_on_singles(records: Sequence[Mapping[str, Any]], singles: Singles) -> Iterable[str]:
    """What delta_m of a table was computed against, or what it lacks."""
    several = [record for record in records if record["task"].split(" ")[0] == SEVERAL]
    for key in sorted({comparable(record) for record in several}):
        parts = next(json.loads(r["setting"])["task"]["tasks"] for r in several if comparable(r) == key)
        alone = singles.get(key, {})
        if lacking := [part for part in parts if part not in alone]:
            yield (
                f"no {DELTA}: it needs method=full on {', '.join(lacking)} alone, in one setting, with the same data, "
                "recipe and decoder"
            )
            continue
        shown = ", ".join(f"{part} {_read(PRIMARY[part].name, alone[part]):.2f}" for part in parts)
        yield f"{DELTA} in percent against full fine-tuning on each task alone, of the same recipe and decoder: {shown}"


def class_ious(cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Class -> mean intersection over union in percent over the seeds of a row's only column; else nothing."""
    if len(cells) != 1:
        return {}
    values: dict[str, list[float]] = {}
    for record in next(iter(cells.values())):
        for name, value in json.loads(record["others"] or "{}").items():
            if name.startswith("iou/"):
                values.setdefault(name.removeprefix("iou/"), []).append(100 * value)
    return {name: statistics.fmean(numbers) for name, numbers in values.items()}
