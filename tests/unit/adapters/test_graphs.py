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


def parts_of(path: Path) -> list[Path]:
    """What earlier versions called the unfinished files of a graph."""
    return [path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.stem}.tmp{path.suffix}")]


@pytest.mark.parametrize(("write", "ending"), [(write_onnx, ".onnx"), (write_program, ".pt2")])
def test_two_exports_at_a_time_and_files_beside_them_are_left_alone(
    write: Callable[[nn.Module, int, Path], object], ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / f"model{ending}"
    for other in parts_of(path):
        other.write_text("of others")
    seen: list[set[Path]] = []
    agreed = graphs._agreed

    def another_within(*given: Any) -> float:
        """An export to the same file begins and ends while one is under way."""
        seen.append({file for file in tmp_path.rglob(f"*{ending}") if file.parent != tmp_path})
        if len(seen) == 1:
            write(Small(), 32, path)
        return agreed(*given)

    monkeypatch.setattr(graphs, "_agreed", another_within)
    write(Small(), 32, path)
    first, both = seen
    assert len(first) == 1 and len(both) == 2 and first < both
    assert sorted(tmp_path.iterdir()) == sorted([path, *parts_of(path)])
    assert {other.read_text() for other in parts_of(path)} == {"of others"}


@pytest.mark.parametrize(("write", "ending"), [(write_onnx, ".onnx"), (write_program, ".pt2")])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, BadInput])
def test_an_export_that_is_interrupted_leaves_what_was_there(
    write: Callable[[nn.Module, int, Path], object],
    ending: str,
    error: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def interrupted(*_: Any) -> float:
        raise error

    monkeypatch.setattr(graphs, "_agreed", interrupted)
    (tmp_path / f"model{ending}").write_text("of another time")
    for path in (tmp_path / f"model{ending}", tmp_path / "new" / "deeper" / f"model{ending}"):
        with pytest.raises(error):
            write(Small(), 32, path)
    assert [file.name for file in tmp_path.iterdir()] == [f"model{ending}"]
    assert (tmp_path / f"model{ending}").read_text() == "of another time"


def test_a_new_folder_is_made_for_a_graph_and_a_message_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "new" / "deeper" / "model.onnx"
    write_onnx(Small(), 32, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    monkeypatch.setattr(graphs, "TOLERANCE", -1.0)
    with pytest.raises(BadInput, match=f"^{path} was not written: its logits differ"):
        write_onnx(Small(), 32, path)


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
