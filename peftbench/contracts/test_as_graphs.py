"""A classifier under any method leaves as a program for any number of images, and as ONNX or with a word about it."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from pathlib import Path

import pytest

from peftbench.adapters.graphs import write_onnx, write_program
from peftbench.contracts.backbones import installed
from peftbench.contracts.test_methods import default_refusal, fitting
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS
from peftbench.tasks.model import Classifier

SIZE = 32
OF_IMAGES = [
    name
    for name in METHODS.names()
    if not (METHODS.get(name).of_pairs or METHODS.get(name).mixes_time or METHODS.get(name).by_task)
]
# sorting that keeps the order of equals, unfolded maps, Fourier transforms, kernels that are computed, index_add, and
# calls with other tensors than a module's own
NOT_IN_ONNX = {
    *("lossless_adapter", "mona", "sa2vp", "sct", "sparse_tuning", "spt_adapter", "ttc", "vfpt", "vit_adapter"),
}


def classifier(name: str) -> Classifier:
    """As it is exported: a method that folds is folded."""
    method = fitting(name)
    backbone = installed(method, "vit_twelve" if default_refusal(name, "vit_cls") else "vit_cls")
    if method.mergeable:
        method.merge(backbone)
    return Classifier(backbone, 3, seed=0)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_program_takes_any_number_of_images(name: str, tmp_path: Path) -> None:
    """It is made of two and compared on three."""
    assert write_program(classifier(name), SIZE, tmp_path / "a.pt2") < 1e-4


@pytest.mark.skipif(
    not (importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime")), reason="onnx is not installed"
)
@pytest.mark.parametrize("name", OF_IMAGES)
def test_onnx_takes_any_number_of_images_or_says_what_does(name: str, tmp_path: Path) -> None:
    refused = pytest.raises(NotApplicable, match=r"write a \.pt2") if name in NOT_IN_ONNX else nullcontext()
    with refused:
        difference = write_onnx(classifier(name), SIZE, tmp_path / "a.onnx")
        assert difference is not None and difference < 1e-4
    assert not list(tmp_path.glob("*.tmp"))
