"""Whether a cell can apply, as far as its options tell: what needs the network or the data is found when it runs."""

from __future__ import annotations

from peftbench.config.gate import RunConfig
from peftbench.foundation.outline import NoOutline


def why_not(config: RunConfig) -> str:
    """Why building this cell would end in "not applicable"; empty where options alone do not tell.

    Builds nothing and takes methods, objectives and tasks in outline.
    """
    try:
        return _of_task(config) or _of_method(config) or _of_objective(config)
    except NoOutline:
        return ""


def _of_task(config: RunConfig) -> str:
    task, backbone = config.task, config.backbone
    if task.name == "vqa_written":
        return "" if backbone.writer else "task=vqa_written needs backbone.writer"
    if (task.reads_texts or task.reads_names) and not backbone.text:
        return f"task={task.name} reads texts, and this backbone reads images alone"
    return ""


def _of_method(config: RunConfig) -> str:
    method, task, backbone = config.method, config.task, config.backbone
    both = bool(backbone.text or backbone.writer)
    if method.mixes_time and config.dataset.clip_length == 1:
        return f"{method.name} works across the frames of clips"
    if method.by_task and task.name != "several":
        return f"{method.name} tells several tasks with maps apart"
    if method.by_class and "label" not in task.targets:
        return f"{method.name} looks at the class of each image, and task={task.name} has none"
    if method.of_pairs and not both:
        return f"{method.name} needs a backbone that reads images and texts"
    if task.base_only and method.bound_to_classes:
        return f"what {method.name} learns belongs to its classes"
    return ""


def _of_objective(config: RunConfig) -> str:
    objective, task, backbone = config.objective, config.task, config.backbone
    if objective.of_method and objective.of_method != config.method.name:
        return f"objective {objective.name} goes with method={objective.of_method}"
    of_classes = not (objective.plain or objective.of_any)
    if of_classes and task.tells_tasks:
        return f"objective {objective.name} compares an image with the classes of all tasks"
    if of_classes and task.targets != ("label",):
        return f"objective {objective.name} is a loss of classes, not of {task.name}"
    if of_classes and objective.of_pairs != bool(backbone.text or backbone.writer):
        return f"objective {objective.name} is made for {'a pair' if objective.of_pairs else 'one network'}"
    return ""
