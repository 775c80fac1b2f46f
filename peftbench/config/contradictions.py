"""What sections of a configuration that are right each by itself say against each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from peftbench.config.presets import DEFAULT
from peftbench.config.protocol import ProtocolSpec
from peftbench.foundation.outline import NoOutline
from peftbench.train.options import OptimSpec, TrainSpec, schedule_problems

if TYPE_CHECKING:
    from peftbench.methods.base import Method
    from peftbench.objectives.base import Objective
    from peftbench.tasks.base import Task


def contradictions(specs: Mapping[str, Any]) -> Iterator[str]:
    """A line for each. A section that was wrong by itself is not among `specs`, and nothing is asked of it.

    Methods, objectives and tasks may be in outline. What such a one cannot tell is said once it is loaded to be run.
    """
    steps = "method" not in specs or not specs["method"].trains_nothing
    if "optim" in specs and "train" in specs and steps:
        yield from schedule_problems(specs["optim"], specs["train"])
    yield from _tuning_problems(specs)
    for sections, problems in _BETWEEN.items():
        if all(section in specs for section in sections):
            try:
                yield from problems(*(specs[section] for section in sections))
            except NoOutline:
                continue


def unheard(specs: Mapping[str, Any], named: Collection[str]) -> Iterator[str]:
    """Options that were named and that another choice leaves without effect. `named`: as in `gate.to_run_config`."""
    asked = sorted(name for name in named if name.startswith("tune.") and name != "tune.strategy")
    # who names tune=none, as a sweep beside tune=random does, knows
    if "tune" in specs and not specs["tune"].active and asked and "tune" not in named:
        yield f"{', '.join(asked)} goes with a search, and nothing is tuned here; add tune=random or leave it out"
    backbone = specs.get("backbone")
    both = {"backbone.weights", "backbone.checkpoint"} <= set(named)
    if both and backbone and backbone.checkpoint and backbone.weights != "checkpoint":
        yield (
            f"backbone.checkpoint={backbone.checkpoint} and backbone.weights={backbone.weights} each say where the "
            "weights come from; leave one of them out"
        )


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


def _window_problems(protocol: ProtocolSpec, task: Task, train: TrainSpec) -> Iterator[str]:
    """Pictures larger than the backbone's input, or several looks at them, out of place."""
    if protocol.several_looks and not task.slides:
        words = "protocol.test_scales and protocol.test_flip are for tasks that predict maps"
        yield f"{words}; with task={task.name} leave them out"
    if protocol.canvas is not None:
        if not task.slides:
            yield f"protocol.canvas is for tasks that predict maps; task={task.name} takes none"
        if train.augment != "scale_crop_flip":
            yield "protocol.canvas needs windows to train on; set train.augment=scale_crop_flip"


def _rearranging_problems(method: Method, optim: OptimSpec, train: TrainSpec) -> Iterator[str]:
    """Options that take one network for all epochs, of a method that rearranges it."""
    if not method.rearranges:
        return
    asked = ["train.compile=false"] if train.compile else []
    asked += ["optim.average_mean=null"] if optim.average_mean is not None else []
    for option in asked:
        yield f"{method.name} rearranges the network between epochs; set {option}"


def _map_problems(task: Task, train: TrainSpec) -> Iterator[str]:
    if train.compile and task.reads_maps:
        words = "train.compile=true: maps are taken off the blocks while they run, which a compiled block does not bear"
        yield f"{words}; set train.compile=false"


def _tower_problems(method: Method, task: Task) -> Iterator[str]:
    if not method.towers or len(set(method.towers)) < len(method.towers):
        yield f"method.towers must name towers, each once, got {method.towers}"
    if "text" in method.towers and not (task.reads_texts or task.reads_names):
        words = f"method.towers={method.towers}: task={task.name} reads images alone"
        yield f"{words}; set task=text_classification, which reads class names, or method.towers=[image]"


def _mixing_problems(task: Task, objective: Objective, train: TrainSpec) -> Iterator[str]:
    """Images that are mixed, or labels that are smoothed, where each must stay what it is."""
    mixing = [f"train.{name}" for name in ("mixup", "cutmix") if getattr(train, name)]
    for name in mixing:
        if task.reads_texts:
            yield f"{name} mixes images, and texts cannot be mixed with them; set {name}=0"
        if objective.by_image:
            words = f"objective {objective.label} compares an image with itself an epoch before"
            yield f"{name} mixes images, and {words}; set {name}=0"
    if task.tells_tasks:
        for name in [*mixing, *(["train.label_smoothing"] if train.label_smoothing else [])]:
            yield f"{name} gives images a share in classes of other tasks; set {name}=0"


# sections -> what is asked of them together, where all are there
_BETWEEN: dict[tuple[str, ...], Callable[..., Iterator[str]]] = {
    ("train", "protocol"): _protocol_problems,
    ("protocol", "task", "train"): _window_problems,
    ("method", "optim", "train"): _rearranging_problems,
    ("task", "train"): _map_problems,
    ("method", "task"): _tower_problems,
    ("task", "objective", "train"): _mixing_problems,
}
