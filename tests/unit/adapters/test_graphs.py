"""A classifier as a graph: other engines give its outputs for any batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftbench.adapters import graphs
from peftbench.adapters.graphs import write_onnx, write_program
from peftbench.backbones.build import from_timm
from peftbench.foundation.errors import BadInput, NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.tasks.base import Classes
from peftbench.tasks.several import Several
from tests.unit.adapters.test_hf_peft import plain, trained


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(9))


# merged into plain modules, tokens of its own, a side network
@pytest.mark.parametrize("method", ["lora", "vpt_deep", "lst"])
def test_onnx_runtime_gives_the_same_logits(method: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = trained(method, "vit_micro_patch4_32")
    difference = write_onnx(model, 32, tmp_path / "model.onnx")
    assert difference is not None
    assert difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for count in (1, 7):
        [logits] = session.run(None, {"images": images(count).numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), model(images(count)), rtol=1e-4, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "vpt_deep"])
def test_a_program_gives_the_same_logits(method: str, tmp_path: Path) -> None:
    model = trained(method, "vit_micro_patch4_32")
    assert write_program(model, 32, tmp_path / "model.pt2") < 1e-5
    again = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(again(images(5)), model(images(5)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(images.flatten(1))
        return logits


def test_a_graph_that_disagrees_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
    with pytest.raises(BadInput, match="its logits differ"):
        write_program(Small(), 32, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


class Two(Small):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = super().forward(images)
        return {"depth": logits[:, :1], "normals": logits[:, 1:]}


def test_scores_of_several_tasks_leave_under_their_names(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = Two().eval()
    assert write_onnx(model, 32, tmp_path / "two.onnx") is not None
    session = onnxruntime.InferenceSession(str(tmp_path / "two.onnx"))
    assert [output.name for output in session.get_outputs()] == ["depth", "normals"]
    [normals] = session.run(["normals"], {"images": images(3).numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(normals), model(images(3))["normals"], rtol=1e-4, atol=1e-4)
    assert write_program(model, 32, tmp_path / "two.pt2") < 1e-5
    program = torch.export.load(tmp_path / "two.pt2").module()
    torch.testing.assert_close(program(images(3))[1], model(images(3))["normals"])


def test_paths_of_tasks_go_with_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    task, classes = Several(tasks=["depth", "normals"]), Classes(("a", "b"))
    backbone = from_timm(plain("vit_micro_patch4_32"), None)
    task.prepare(backbone, classes)
    install(METHODS.get("mtlora")(), backbone, 0, None)
    model = task.model(backbone, classes, 0).eval()
    # both are made of two images and compared on three
    assert write_program(model, 32, tmp_path / "a.pt2") < 1e-5
    write_onnx(model, 32, tmp_path / "a.onnx")


class Asking(Small):
    def forward(self, images: torch.Tensor) -> object:
        return object()


@pytest.mark.parametrize(("write", "name"), [(write_onnx, "a.onnx"), (write_program, "a.pt2")])
def test_what_asks_for_more_than_images_is_no_graph(write: Callable[..., Any], name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(NotApplicable, match=r"also asks for boxes: write a \.safetensors"):
        write(Asking(), 32, tmp_path / name)
    assert not list(tmp_path.iterdir())
