"""Classification by texts: an image belongs to the class whose text is nearest to it. No head, nothing of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from peftbench.backbones.base import Backbone
from peftbench.data.halves import num_base
from peftbench.data.templates import IMAGENET_7, IMAGENET_80, PLAIN
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.foundation.metric import Metric
from peftbench.foundation.spec import labelled, option
from peftbench.tasks.apart import MEAN_ACCURACY, MULTI_TASK, TasksMeter, TasksModel, numbers_of
from peftbench.tasks.base import TASKS, Targets, pair_for
from peftbench.tasks.classification import Classification
from peftbench.tasks.halves import BASE_TO_NEW, H, HalvesMeter, HalvesModel
from peftbench.tasks.model import TaskModel
from peftbench.train.evaluate import Meter

LISTS = {"plain": PLAIN, "imagenet_7": IMAGENET_7, "imagenet_80": IMAGENET_80}
OF_DATASET = "dataset"


@TASKS.add("text_classification")
@dataclass(frozen=True)
class TextClassification(Classification):
    """logits = scale * cos(f, w_c), w_c the text of class c in a template (CLIP, arXiv:2103.00020, section 3.1).

    `templates`: the dataset's own, `plain` ("a photo of a {}."), or CLIP's 7 or 80 for ImageNet, whose features are
    averaged, each of length 1. `template` is one of your own in their place, `{}` standing for the class name.
    """

    plain: ClassVar[bool] = False
    reads_names: ClassVar[bool] = True

    templates: str = option(OF_DATASET, choices=(OF_DATASET, *LISTS))
    template: str = option("")
    # train on the first half of the classes, test on both: see `tasks.halves`
    halves: bool = option(False)
    # of data with several tasks, compare each image with the classes of its own: see `tasks.apart`
    apart: bool = option(False, later=True)

    @property
    def label(self) -> str:
        if self.apart:
            return labelled(MULTI_TASK, replace(self, apart=False))
        return labelled(BASE_TO_NEW, replace(self, halves=False)) if self.halves else super().label

    @property
    def metric(self) -> Metric:
        if self.apart:
            return MEAN_ACCURACY
        return H if self.halves else super().metric

    @property
    def base_only(self) -> bool:
        return self.halves

    @property
    def tells_tasks(self) -> bool:
        return self.apart

    def problems(self) -> Sequence[str]:
        if self.template and self.template.count("{}") != 1:
            return ["task.template needs {} once, where the class name stands: task.template='a photo of a {}.'"]
        if self.halves and self.apart:
            return ["task.halves and task.apart exclude each other; set one of them to false"]
        return ()

    def prepare(self, backbone: Backbone, targets: Targets) -> None:
        pair = pair_for(self.name, backbone)
        if targets.class_tasks and not self.apart:
            raise ConfigError(["this data has several tasks; set task.apart=true"])
        if self.apart and not targets.class_tasks:
            raise NotApplicable("all classes of this data are of one task; set task.apart=false")
        own = targets.templates if self.templates == OF_DATASET else LISTS[self.templates]
        tasks = numbers_of(targets.class_tasks)
        pair.read_classes(targets.class_names, [self.template] if self.template else own, tasks)

    def model(self, backbone: Backbone, targets: Targets, seed: int) -> TaskModel:
        head = nn.Identity()
        if self.apart:
            return TasksModel(backbone, head, targets.class_tasks)
        if self.halves:
            return HalvesModel(backbone, head, num_base(targets.num_classes))
        return TaskModel(backbone, head)

    def meter(self, targets: Targets) -> Meter:
        if self.apart:
            return TasksMeter(targets.class_tasks)
        return HalvesMeter(num_base(targets.num_classes)) if self.halves else super().meter(targets)

    def reads_pooled(self, model: TaskModel) -> bool:
        return False
