"""Words of `predict` and of other commands on a record: either spelling serves, and none is taken in vain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from peftbench.backbones.source import embedded_file
from peftbench.records.store import Store
from tests.conftest import REPOSITORY
from tests.integration.test_sweeps import TINY

# a committed one, whose adapter is committed as well
RECORD = "f17facad5c5c0ce7"


@pytest.fixture
def trained(run, results, tmp_path: Path) -> tuple[str, str, str]:
    """A record whose weights came from a file, the file, and an image."""
    weights = load_file(embedded_file())
    weights["norm.bias"] = weights["norm.bias"] + 0.5
    save_file(weights, tmp_path / "own.safetensors")
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    assert run("method=lora", *TINY, f"backbone.checkpoint={tmp_path / 'own.safetensors'}") == 0
    (record,) = Store(results).all()
    return record.fingerprint, str(tmp_path / "own.safetensors"), str(tmp_path / "a.png")


def test_weights_and_device_are_named_by_either_spelling(run, trained, tmp_path, capsys):
    record, weights, image = trained
    exported = str(tmp_path / "m.safetensors")
    assert run("export", record, exported, f"backbone.checkpoint={weights}", fast=False) == 0
    capsys.readouterr()
    option, flag = [f"backbone.checkpoint={weights}"], ["--checkpoint", weights]
    said = set()
    for model in (record, exported):
        for words in (option, flag, [*option, *flag], [*flag, "runtime.device=cpu"], [*option, "--device", "cpu"]):
            assert run("predict", model, image, *words, fast=False) == 0
            said.add(capsys.readouterr().out)
        for words in (["--device", "cdua"], ["runtime.device=cdua"]):
            assert run("predict", model, image, *option, *words, fast=False) == 2
            assert "'cdua'" in capsys.readouterr().err
        assert run("predict", model, image, *option, "--device", "cpu", "runtime.device=cuda", fast=False) == 2
        assert "--device cpu and runtime.device=cuda: leave one out" in capsys.readouterr().err
        assert run("predict", model, image, fast=False) in (1, 2)
        [line] = capsys.readouterr().err.splitlines()
        assert "--checkpoint FILE" in line or "backbone.checkpoint=FILE" in line
        assert run("predict", model, image, "backbone.checkpoint=nonsense", fast=False) == 2
        assert "backbone.checkpoint=nonsense is not a file" in capsys.readouterr().err
    assert len(said) == 1


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """By name the paths of what is taken for an exported file, a folder of PEFT's and an image."""
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    return {"file": str(tmp_path / "m.safetensors"), "folder": str(tmp_path / "peft"), "image": str(tmp_path / "a.png")}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("predict {file} {image} dataset.rooot=7", "nothing uses dataset.rooot; it takes backbone.checkpoint"),
        ("predict {file} {image} dataset=digits", "nothing uses dataset; it takes backbone.checkpoint"),
        ("predict {file} {image} backbone.chekpoint=x", "nothing uses backbone.chekpoint; did you mean backbone.check"),
        ("predict {file} {image} runtime.results=x", "nothing uses runtime.results; it takes"),
        ("predict {record} {image} runtime.devise=cpu", "nothing uses runtime.devise; did you mean runtime.device?"),
        ("predict {record} {image} runtime.threads=1", "nothing uses runtime.threads; it takes runtime.device"),
        ("predict {record} {image} dataset.rooot=7", "dataset.rooot"),
        ("predict {record} {image} seed=3", "the parts of a recorded cell are settled"),
        ("predict {record} {image} tune.num_trials=3", "a recorded cell has no use for it"),
        ("export {record} x.onnx runtime.device=cpu", "export: nothing uses runtime.device; it takes runtime.results"),
        ("export {record} x.onnx launcher.workers=2", "launcher.workers: a recorded cell has no use for it"),
        ("evaluate {record} runtime.on_existing=rerun", "evaluate: nothing uses runtime.on_existing; it takes"),
        ("evaluate {record} runtime.capture=off", "evaluate: nothing uses runtime.capture"),
        ("evaluate {record} tune.seed=3", "tune.seed: a recorded cell has no use for it"),
        ("evaluate {folder} optim.lr=3 dataset=digits", "optim.lr: the adapter says what it changes"),
        ("evaluate {folder} method=ssf dataset=digits", "method: the adapter says what it changes"),
        ("evaluate {folder} runtime.wandb=online", "nothing uses runtime.wandb"),
        ("reproduce {record} runtime.save_adapter=true", "reproduce: nothing uses runtime.save_adapter"),
        ("robustness {record} runtime.wandb=online", "robustness: nothing uses runtime.wandb"),
        ("show {record} runtime.on_failed=retry", "show: nothing uses runtime.on_failed"),
    ],
)
def test_a_word_that_nothing_uses_is_one_line(run, places, capsys, words, why):
    asked = [word.format(record=RECORD, **places) for word in words.split()]
    asked += ["--results", str(REPOSITORY / "results")] if RECORD in asked else []
    assert run(*asked, fast=False) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert why in line


def test_raw_weights_beside_their_average_are_taken_again(run, results, tmp_path, capsys):
    """What a model was trained on is what it predicts with, of a file that holds two."""
    raw = load_file(embedded_file())
    average = {name: tensor + 0.01 for name, tensor in raw.items()}
    torch.save({"state_dict": raw, "state_dict_ema": average}, tmp_path / "both.pth")
    weights = f"backbone.checkpoint={tmp_path / 'both.pth'}"
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "dark.png")
    for ema in ("true", "false"):
        target = tmp_path / f"{ema}.safetensors"
        assert run("method=linear", *TINY, weights, f"backbone.ema={ema}", f"runtime.results={results / ema}") == 0
        (record,) = Store(results / ema).all()
        words = ("--results", str(results / ema), weights)
        assert run("export", record.fingerprint, str(target), *words, fast=False) == 0
        capsys.readouterr()
        assert run("predict", str(target), str(tmp_path / "dark.png"), weights, fast=False) == 0
        assert "dark.png" in capsys.readouterr().out
