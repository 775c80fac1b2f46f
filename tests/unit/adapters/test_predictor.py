"""Files for a predictor, and what to say where there are none."""

from __future__ import annotations

import ast
import csv
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from peftbench.adapters import predictor as predictors
from peftbench.adapters.predictor import Predictor, backbone_of, command, image_files, snippet
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.source import weights_id
from peftbench.cli.commands import predict
from peftbench.data.pixels.transform import ImageTransform
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from tests.closed_folders import close_folder


class Darkness(torch.nn.Module):
    """Two classes told apart by the mean of all pixels, from -1 (black) to 1 (white)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean(dim=(1, 2, 3))
        return torch.stack([-level, level], dim=1)


@pytest.fixture
def darkness(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """A predictor of `dark` and `light`, which the command takes whatever model it is given."""
    made = object.__new__(Predictor)
    made.class_names, made.transform, made.device = ("dark", "light"), ImageTransform(8), torch.device("cpu")
    made._upright = False
    made.model, made._mean, made._std = Darkness(), torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.5)
    monkeypatch.setattr(predict, "Predictor", lambda *_: made)
    return made


def photos(folder: Path, **levels: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in levels.items():
        Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{name}.png")


def test_folders_are_searched_in_order_and_hidden_files_left_out(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", "notes.txt", ".trash/x.png", "b/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = image_files([tmp_path, tmp_path / "notes.txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a.jpeg", "b/1.png", "b/2.JPG", "notes.txt"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="there is no image and no folder at nowhere"):
        image_files(["nowhere"])
    with pytest.raises(MissingInput, match="no images in"):
        image_files([tmp_path])


def test_images_are_found_beside_names_of_nothing(tmp_path: Path) -> None:
    photos(tmp_path, a=0)
    (tmp_path / "empty").mkdir()
    told: list[Exception] = []
    found = image_files([tmp_path / "a.png", tmp_path / "nowhere", tmp_path / "empty"], told.append)
    assert found == [tmp_path / "a.png"]
    assert [str(error).partition(f" {tmp_path}")[0] for error in told] == [
        "there is no image and no folder at",
        "no images in",
    ]
    with pytest.raises(MissingInput, match="no image is named"):
        image_files([])


def test_pictures_are_turned_where_those_of_training_were(tmp_path: Path, darkness: Predictor) -> None:
    """A picture dark above and light below, whose orientation says that it stands on its head."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[4:] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "turned.png", exif=exif)
    weights = torch.zeros(3, 8, 8)
    weights[:, :4] = 1
    darkness.model = lambda images: torch.stack(
        [-(images * weights).sum((1, 2, 3)), (images * weights).sum((1, 2, 3))], 1
    )
    for upright, label in ((False, "dark"), (True, "light")):
        darkness._upright = upright
        with Image.open(tmp_path / "turned.png") as read:
            of_memory = int(darkness.probabilities([read]).argmax())
        assert darkness(tmp_path / "turned.png")[0].label == darkness.class_names[of_memory] == label


def test_weights_are_found_again_or_asked_for() -> None:
    facts = {"title": "t", "model": "vit_tiny_patch16_224", "img_size": None}
    micro = {**facts, "model": "vit_micro_patch4_32", "weights": weights_id(BackboneSpec())}
    assert backbone_of(micro).source == "embedded"
    assert backbone_of({**facts, "weights": "timm:vit_tiny_patch16_224"}).source == "timm"
    with pytest.raises(MissingInput, match="--checkpoint FILE"):
        backbone_of({**facts, "weights": "sha256:00"})
    assert backbone_of({**facts, "weights": "sha256:00"}, "w.pth").source == "checkpoint"


def test_words_that_use_a_file_survive_its_name() -> None:
    model, weights = Path('a "b"/my model.safetensors'), Path("/w x.pth")
    for given in (None, weights):
        call = ast.parse(snippet(model, given)).body[1].value
        assert [ast.literal_eval(value) for value in call.args] == [str(model)]
        assert {key.arg: ast.literal_eval(key.value) for key in call.keywords} == (
            {} if given is None else {"checkpoint": str(weights)}
        )
    plain = ["python", "-m", "peftbench", "predict", str(model)]
    assert shlex.split(command(model)) == [*plain, "FILES_OR_FOLDER"]
    assert shlex.split(command(model, weights)) == [*plain, "--checkpoint", str(weights), "FILES_OR_FOLDER"]


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "open", a=0)
    photos(tmp_path / "closed", b=0)
    close_folder(monkeypatch, tmp_path / "closed")
    with pytest.raises(BadInput, match="closed: permission denied"):
        image_files([tmp_path])
    told: list[Exception] = []
    assert image_files([tmp_path], told.append) == [tmp_path / "open" / "a.png"]
    assert [str(error).partition(";")[0] for error in told] == [f"{tmp_path}/closed: permission denied"]


def test_links_that_lead_nowhere_are_named_and_pipes_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    assert image_files([tmp_path]) == [tmp_path / "gone.png"]


def test_good_images_have_their_rows_and_bad_ones_are_named(
    tmp_path: Path, darkness: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictors, "BATCH", 2)
    root = tmp_path / "new"
    photos(root, a=0, d=255, f=0)
    photos(root / "closed", z=0)
    (root / "b.jpg").write_text("no image")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(root / "c.tif")
    (root / "e.png").symlink_to(tmp_path / "nowhere")
    close_folder(monkeypatch, root / "closed")
    out = tmp_path / "out.csv"
    assert predict.main(["model.safetensors", str(root), "--out", str(out)]) == 1
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(Path(row["file"]).name, row["class"]) for row in rows] == [
        ("a.png", "dark"),
        ("d.png", "light"),
        ("f.png", "dark"),
    ]
    said = capsys.readouterr()
    assert "3 images" in said.out
    lines = [line for line in said.err.splitlines() if "left out: " in line]
    assert [next(name for name in ("closed", "b.jpg", "c.tif", "e.png") if name in line) for line in lines] == [
        "closed",
        "b.jpg",
        "c.tif",
        "e.png",
    ]
    assert predict.main(["model.safetensors", str(root / "a.png"), "--all", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 2
    out.write_text("file,label\na.png,0\n")
    with pytest.raises(ConfigError, match=r"out\.csv would be written over, and what is there is no table"):
        predict.main(["model.safetensors", str(root / "a.png"), "--out", str(out)])
    assert out.read_text() == "file,label\na.png,0\n"
    capsys.readouterr()
    assert predict.main(["model.safetensors", str(root / "a.png")]) == 0
    assert capsys.readouterr().err == ""


def test_no_good_image_at_all_is_an_error(
    tmp_path: Path, darkness: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(predict.MOST_NAMED + 3):
        (tmp_path / f"{number}.jpg").write_text("no image")
    with pytest.raises(BadInput, match="none of the images can be read") as caught:
        predict.main(["model.safetensors", str(tmp_path), "--out", str(tmp_path / "out.csv")])
    lines = str(caught.value).splitlines()
    assert len(lines) == predict.MOST_NAMED + 2 and lines[-1] == "3 more"
    with pytest.raises(BadInput, match=r"^\S+/0\.jpg: the image cannot be decoded .*truncated$"):
        predict.main(["model.safetensors", str(tmp_path / "0.jpg")])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("pictures", [Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8), 3])
def test_pictures_in_memory_have_a_method_of_their_own(tmp_path: Path, darkness: Predictor, pictures: object) -> None:
    for wrong in (pictures, [pictures]):
        with pytest.raises(BadInput, match=r"takes paths of image files .*\.probabilities\("):
            darkness(wrong)
    for wrong in (pictures, "a.png", ["a.png"], [pictures, np.zeros((4, 4, 3), np.uint8)]):
        with pytest.raises(
            BadInput, match=r"probabilities takes a list of PIL's images .*, got (Image|ndarray|int|str)"
        ):
            darkness.probabilities(wrong)
    modes = [Image.new(mode, (4, 4)) for mode in ("RGB", "L", "RGBA", "P")]
    assert (darkness.probabilities(modes).argmax(axis=1) == 0).all()
    assert darkness.probabilities([]).shape == (0, 2)
    photos(tmp_path, a=255)
    assert darkness(tmp_path / "a.png")[0].label == darkness([str(tmp_path)])[0].label == "light"
