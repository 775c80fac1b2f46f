"""Numbers beside the primary one of other tasks than classes, and what several tasks at once gain over single ones."""

from __future__ import annotations

import json
import shlex
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
# what delta_m reads where the literature compares tasks by another number than it leads with (ASTMT, MTI-Net, MTLoRA)
_COMPARED = {"saliency": Metric("miou")}
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
_DECODER = ("decoder", "num_maps", "channels", "behind_merging")
# what is no share of something, and what of that has no unit
_PLAIN = ("rmse", "log_rmse", "abs_rel", "mean_angle", "median_angle", "rms_angle")
_WITHOUT_UNIT = ("rmse", "abs rel")

# key of comparable cells -> task -> mean of the number that delta_m reads, of full fine-tuning on that task alone; None
# where that was done in several settings, and nothing says which of them is meant
Singles = Mapping[str, Mapping[str, float | None]]
# words of a cell of several tasks that its single ones do not share: options, rates among them, and all of a section
_RATES = ("optim.lr", "optim.head_lr_scale", "optim.min_lr", "optim.warmup_lr")
_OWN_OPTIONS = ("seed", "task", "task.tasks", "task.weights", *_RATES, "optim.undecayed")
_OWN_SECTIONS = ("method", "objective", "hparams", "tune", "runtime", "launcher", "suite")


def compared(task: str) -> Metric:
    """The number of a task that delta_m reads: the primary one, of saliency mIoU."""
    return _COMPARED.get(task, PRIMARY[task])


def delta_m(values: Mapping[str, float], singles: Mapping[str, float]) -> float:
    """Mean over tasks of the relative change against single-task training, in percent; above 0 is better.

    (1/T) sum of (-1)^l (M - S) / S with l = 1 where lower is better (Maninis et al., CVPR 2019).
    """
    changes = [
        (1 if compared(task).better == HIGHER else -1) * (value - singles[task]) / singles[task]
        for task, value in values.items()
    ]
    return 100 * statistics.fmean(changes)


def comparable(record: Mapping[str, Any]) -> str:
    """What must be equal for numbers of one task and of several to be compared: all but method, rates, seed, task."""
    identity = json.loads(record["setting"])
    decoder = {name: identity.get("task", {}).get(name) for name in _DECODER}
    return canonical({name: identity.get(name) for name in ("backbone", "dataset", "protocol", "train")} | decoder)


def single_tasks(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of the rows of `collect` those of full fine-tuning on one task, as `Singles`."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for record in records:
        identity = json.loads(record["setting"])
        task = identity.get("task", {}).get("name", "")
        if task in PRIMARY and identity.get("method", {}).get("name") == "full":
            settings = found.setdefault(comparable(record), {}).setdefault(task, {})
            value = float(json.loads(record["others"])[compared(task).name])
            settings.setdefault(record["setting"], []).append(value)
    return {
        key: {task: statistics.fmean(*each.values()) if len(each) == 1 else None for task, each in tasks.items()}
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
        for part in parts:
            name = PRIMARY[part].name
            yield f"{part} {name}", _read(name, others[f"{part}/{name}"])
        values = {part: others[f"{part}/{compared(part).name}"] for part in parts}
        alone = _known(singles, comparable(record))
        # of nothing there is no relative change
        if all(alone.get(part) for part in parts):
            yield DELTA, delta_m(values, alone)
        return
    for name, header in SHOWN.get(task, {}).items():
        if name in others:
            yield header, _read(name, others[name])


def without_unit(header: str) -> bool:
    """Whether the numbers under this header, of `beside`, are neither percent nor degrees."""
    return header.endswith(_WITHOUT_UNIT)


def _read(name: str, value: float) -> float:
    return value if name in _PLAIN else 100 * value


def notes_on_singles(records: Sequence[Mapping[str, Any]], singles: Singles) -> Iterable[str]:
    """What delta_m of a table was computed against, or what it lacks."""
    several = [record for record in records if record["task"].split(" ")[0] == SEVERAL]
    for key in sorted({comparable(record) for record in several}):
        own = [record for record in several if comparable(record) == key]
        parts = list(dict.fromkeys(part for record in own for part in json.loads(record["setting"])["task"]["tasks"]))
        alone = _known(singles, key)
        if twice := [part for part in parts if part in singles.get(key, {}) and part not in alone]:
            yield (
                f"no {DELTA}: method=full on {', '.join(twice)} alone is recorded in several settings; leave one in "
                "the table (leaderboard --suite)"
            )
        if lacking := [part for part in parts if part not in singles.get(key, {})]:
            yield (
                f"no {DELTA}: it needs method=full on {', '.join(lacking)} alone, with the same data, recipe and "
                f"decoder{_command(own, lacking)}"
            )
        if twice or lacking:
            continue
        if nothing := [part for part in parts if not alone[part]]:
            yield f"no {DELTA}: full fine-tuning on {', '.join(nothing)} alone has 0, of which nothing is a share"
            continue
        shown = ", ".join(
            f"{_named(part)} {_read(compared(part).name, alone[part]):.{2 + compared(part).finer}f}" for part in parts
        )
        yield f"{DELTA} in percent against full fine-tuning on each task alone, of the same recipe and decoder: {shown}"


def _named(task: str) -> str:
    """A task, with the number of it that is meant where that is not the primary one."""
    return f"{task} {SHOWN[task][_COMPARED[task].name]}" if task in _COMPARED else task


def _known(singles: Singles, key: str) -> dict[str, float]:
    return {task: value for task, value in singles.get(key, {}).items() if value is not None}


def _command(records: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """The words that run full fine-tuning on each of `tasks` as these cells were run; "" where none are known.

    Words that hold a place are in no record, and so not here.
    """
    for record in records:
        words = [word for word in json.loads(record["command"] or "[]") if "=" in word]
        if f"task={SEVERAL}" not in words:
            continue
        seeds = ",".join(str(seed) for seed in sorted({int(record["seed"]) for record in records}))
        kept = [word for word in words if not _own(word.partition("=")[0].lstrip("+"))]
        said = [*kept, "method=full", f"task={','.join(tasks)}", f"seed={seeds}"]
        return f": {shlex.join(['python', '-m', 'peftbench', '-m', *said])}"
    return ""


def _own(option: str) -> bool:
    return option in _OWN_OPTIONS or option.partition(".")[0] in _OWN_SECTIONS


def of_classes(task: str) -> tuple[str, str]:
    """What a task says of each class: its short name, which leads the class in a record, and in words."""
    return ("ap", "average precision") if task.split(" ")[0] == "detection" else ("iou", "intersection over union")


def by_class(cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Class -> mean score in percent (`of_classes`) over the seeds of a row's only column; else nothing."""
    if len(cells) != 1:
        return {}
    values: dict[str, list[float]] = {}
    for record in next(iter(cells.values())):
        prefix = f"{of_classes(record['task'])[0]}/"
        for name, value in json.loads(record["others"] or "{}").items():
            if name.startswith(prefix):
                values.setdefault(name.removeprefix(prefix), []).append(100 * value)
    return {name: statistics.fmean(numbers) for name, numbers in values.items()}
