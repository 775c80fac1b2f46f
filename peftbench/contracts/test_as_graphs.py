"""A model under any method leaves as a program for any number of images, and as ONNX or with a word about it."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path

import pytest

from peftbench.adapters.graphs import write_onnx, write_program
from peftbench.contracts.backbones import OF_TASKS, look, make
from peftbench.contracts.test_methods import default_refusal, fitting
from peftbench.contracts.test_objectives import OF_IMAGES as OF_OBJECTIVES
from peftbench.contracts.test_objectives import build, its_method
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes, Task
from peftbench.tasks.classification import Classification
from peftbench.tasks.model import TaskModel
from peftbench.tasks.several import Several

SIZE, CLASSES = 32, Classes(("a", "b", "c"))
OF_IMAGES = [name for name in METHODS.names() if not (METHODS.get(name).of_pairs or METHODS.get(name).mixes_time)]
# what is said of those that ONNX does not take, as torch writes it
NOT_IN_ONNX = {
    "ditask": "expm1",
    "hyperprompt_global": "any number of images",
    "mona": "convolution for kernel of unknown shape",
    "polyhistor": "kron",
    "sa2vp": "Unfold",
    "sct": "any number of images",
    "sparse_tuning": "Sort",
    "spt_adapter": "stateless",
    "tadformer": "convolution for kernel of unknown shape",
    "ttc": "any number of images",
    "vfpt": "fft_fftn",
    "vit_adapter": "any number of images",
}


def model_of(name: str) -> TaskModel:
    """A classifier, or one of two tasks with maps, as it is exported: a method that folds is folded."""
    method = fitting(name)
    if method.by_task:
        task: Task = Several(tasks=["segmentation", "depth"], num_maps=2)
        backbone = make("swin" if default_refusal(name, "vit_cls" + OF_TASKS) else "vit_cls")
        task.prepare(backbone, CLASSES)
    else:
        task, backbone = Classification(), make("vit_twelve" if default_refusal(name, "vit_cls") else "vit_cls")
    install(method, backbone, 0, look(method, backbone))
    if method.mergeable:
        method.merge(backbone)
    return task.model(backbone, CLASSES, 0)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_program_takes_any_number_of_images(name: str, tmp_path: Path) -> None:
    """It is made of two and compared on three."""
    assert write_program(model_of(name), SIZE, tmp_path / "a.pt2") < 1e-4


@pytest.mark.parametrize("objective", OF_OBJECTIVES)
def test_a_program_with_what_an_objective_adds_takes_any_number_of_images(objective: str, tmp_path: Path) -> None:
    model, _ = build(its_method(objective), objective)
    assert write_program(model, SIZE, tmp_path / "a.pt2") < 1e-4


@pytest.mark.skipif(
    not (importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime")), reason="onnx is not installed"
)
@pytest.mark.parametrize("name", OF_IMAGES)
def test_onnx_takes_any_number_of_images_or_says_what_does(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = rf"{NOT_IN_ONNX.get(name)}.*; write a \.pt2, which does"
    refused = pytest.raises(NotApplicable, match=reason) if name in NOT_IN_ONNX else nullcontext()
    with refused:
        difference = write_onnx(model_of(name), SIZE, tmp_path / "a.onnx")
        assert difference is not None and difference < 1e-4
    assert {path.name for path in tmp_path.iterdir()} <= {"a.onnx"} and capfd.readouterr().out == ""
