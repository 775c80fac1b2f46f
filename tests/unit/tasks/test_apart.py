"""Several tasks trained together: who is compared with what, and what is measured of each task."""

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.contracts.backbones import PAIR, make
from peftbench.data.fewshot.draw import COOP, few_shot
from peftbench.data.sources.domain_shapes import DOMAINS, DomainShapes
from peftbench.data.sources.named_shapes import SEEN, draw, under
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.tasks.apart import TasksMeter, TasksModel, numbers_of
from peftbench.tasks.base import Classes
from peftbench.tasks.text_classification import TextClassification

TASKS = ("art", "art", "real")


class Known(nn.Module):
    inputs = ("image",)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def test_tasks_are_numbered_as_they_come():
    assert (numbers_of(("b", "a", "b")), numbers_of(())) == ([0, 1, 0], [])


def test_a_sample_is_compared_with_the_classes_of_its_task_alone():
    model = TasksModel(Known(), nn.Identity(), TASKS)  # type: ignore[arg-type]
    logits = torch.tensor([[1.0, 2, 9], [9, 9, 1]], requires_grad=True)
    outputs = model(logits, torch.tensor([0, 1]))
    assert outputs.tolist() == [[1, 2, -torch.inf], [-torch.inf, -torch.inf, 1]]
    loss = nn.functional.cross_entropy(outputs, torch.tensor([0, 2]))
    loss.backward()
    # log(1 + e) of the first, nothing of the second, whose task has one class
    assert loss.item() == pytest.approx(np.log1p(np.e) / 2)
    assert logits.grad is not None and logits.grad[:, 2].tolist() == [0, 0] and not logits.grad[1].any()


def test_each_task_counts_alike_in_the_mean():
    meter = TasksMeter(TASKS)
    outputs = torch.tensor([[3.0, 0, -torch.inf], [3, 0, -torch.inf], [0, 3, -torch.inf], [-torch.inf, -torch.inf, 1]])
    meter.update(outputs, {"label": torch.tensor([0, 1, 1, 2]), "index": torch.arange(4)})
    metrics = meter.result().metrics
    assert (metrics["accuracy/art"], metrics["accuracy/real"]) == (pytest.approx(2 / 3), 1)
    assert metrics["mean_accuracy"] == pytest.approx(5 / 6) and metrics["accuracy"] == 0.75
    assert list(metrics)[-2:] == ["accuracy/art", "accuracy/real"]


def test_domains_take_turns_and_show_the_same_classes():
    source = DomainShapes().open()
    assert source.class_names == SEEN * 3 and source.class_tasks[::16] == DOMAINS
    split = source.split("val200")
    # the 800th is of the third domain, and 266 turns ago all began with the first class
    assert split.labels[:4].tolist() == [32 + 266 % 16, 267 % 16, 16 + 267 % 16, 32 + 267 % 16]
    name = SEEN[int(split.labels[0]) % 16]
    assert (np.asarray(split.read(0)) == under(DOMAINS[2], draw(0, 800, name))).all()
    drawn = few_shot(source, 16, 1, "m", COOP)
    assert np.bincount(drawn.split("fewshot").labels).tolist() == [16] * 48 and drawn.class_tasks == source.class_tasks


@pytest.mark.parametrize(
    ("apart", "tasks", "raised", "said"),
    [(False, TASKS, ConfigError, "apart=true"), (True, (), NotApplicable, "apart=false")],
)
def test_the_task_says_how_the_data_is(apart, tasks, raised, said):
    targets = Classes(("red circle", "blue ring", "red circle"), class_tasks=tasks)
    with pytest.raises(raised, match=said):
        TextClassification(apart=apart).prepare(make(PAIR), targets)
