"""Running a record again, and sharing its adapter, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from peftbench.adapters.card import TAG
from peftbench.backbones.source import embedded_file
from peftbench.cells.cell import method_label
from peftbench.cells.restore import record_config
from peftbench.cli.commands.reproduce import counted_differences, number_differences, setting_differences, verdict
from peftbench.config.gate import from_tree
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.sources.digits import Digits
from peftbench.foundation import matmul
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.conftest import REPOSITORY
from tests.hub_stand_in import stand_in
from tests.integration.test_sweeps import TINY


def test_a_record_is_reproduced_bit_for_bit(run, results, capsys):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    before = sorted(path for path in results.rglob("*") if path.is_file())
    capsys.readouterr()
    assert run("reproduce", record.fingerprint, "--results", str(results), fast=False) == 0
    shown, said = capsys.readouterr()
    assert "reproduced bit for bit" in shown and "what else differs" not in shown
    assert f"running on {record.provenance['machine']['threads']} threads, as the record says" in said
    assert sorted(path for path in results.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("library", ["torch", "onednn"])
def test_the_record_s_library_multiplies_again(library, run, results, capsys):
    if library == "onednn" and not matmul.available():
        pytest.skip("this torch carries no oneDNN")
    assert run("method=lora", f"runtime.matmul={library}", *TINY) == 0
    (record,) = Store(results).all()
    assert record.provenance["machine"].get("matmul", "torch") == library
    capsys.readouterr()
    assert run("reproduce", record.fingerprint, "--results", str(results), fast=False) == 0
    shown = capsys.readouterr().out
    assert "reproduced bit for bit" in shown and "what else differs" not in shown
    other = {"torch": "onednn", "onednn": "torch"}[library]
    if matmul.available():
        run("reproduce", record.fingerprint, "--results", str(results), f"runtime.matmul={other}", fast=False)
        assert f"matmul: {library} -> {other}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["torch", "float32"])
def test_gradients_of_attention_are_computed_again_as_for_the_record(kind, run, results, capsys):
    cell = ["method=lora", f"runtime.attention_grad={kind}", "train.precision=bf16", *TINY]
    assert run(*cell, "runtime.device=cpu") == 0
    (record,) = Store(results).all()
    assert record.provenance["machine"].get("attention_grad", "torch") == kind
    capsys.readouterr()
    again = ["reproduce", record.fingerprint, "--results", str(results), "runtime.device=cpu"]
    assert run(*again, fast=False) == 0
    shown = capsys.readouterr().out
    assert "reproduced bit for bit" in shown and "what else differs" not in shown
    other = {"torch": "float32", "float32": "torch"}[kind]
    assert run(*again, f"runtime.attention_grad={other}", fast=False) == 1
    shown = capsys.readouterr().out
    assert f"attention_grad: {kind} -> {other}" in shown and "not the same numbers" in shown


def test_in_fp32_gradients_of_attention_are_not_spoken_of(run, results):
    assert run("method=lora", "runtime.attention_grad=float32", *TINY) == 0
    (record,) = Store(results).all()
    assert "attention_grad" not in record.provenance["machine"]


def test_what_differs_is_named_and_measured(run, results, capsys):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    path = Store(results).find(record.fingerprint)
    values = json.loads(path.read_text())
    values["metrics"]["test"]["loss"] += 0.125
    values["curve"][0]["loss"] += 0.25
    values["provenance"]["versions"]["torch"] = "1.0"
    values["provenance"]["machine"]["cpu"] = "an abacus"
    path.write_text(json.dumps(values))
    capsys.readouterr()
    assert run("reproduce", str(path), "runtime.progress=false", fast=False) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("not the same numbers:")
    assert "test loss: " in shown and "equal before epoch 1" in shown and "losses by 2.5e-01" in shown
    assert "torch: 1.0 -> " in shown and "cpu: an abacus -> " in shown


def test_maps_that_differ_are_counted_as_samples_and_as_pixels():
    old = np.zeros((3, 4, 5), np.uint8)
    new = old.copy()
    new[1, :2] = 1
    assert counted_differences(old, new) == "predictions: 1 of 3 differ, in 10 of 60 pixels"
    boxes = np.zeros((3, 100, 6), np.float32)
    assert counted_differences(boxes, boxes + np.array([1, 0, 1])[:, None, None]) == "predictions: 2 of 3 differ"
    assert counted_differences(np.arange(4), np.array([0, 1, 3, 2])) == "predictions: 2 of 4 differ"


def test_equal_settings_and_unequal_numbers_are_called_wrong():
    assert verdict(["test loss: 1 -> 2"], [])[-1].endswith("this should not be")
    assert verdict([], [], ("metrics", "curve")) == ["reproduced bit for bit: metrics and curve"]


def test_a_record_of_other_code_is_not_run(run, results, capsys):
    assert run("method=linear", *TINY) == 0
    (record,) = Store(results).all()
    assert run("reproduce", record.fingerprint, "dataset.seed=1", fast=False) == 2 - 1
    assert "is not the cell of record" in capsys.readouterr().err
    assert number_differences(record, record) == [] and setting_differences(record, record) == []


def test_committed_records_are_still_the_cells_of_their_configurations():
    records = list(Store(REPOSITORY / "results").all())
    # a fingerprint can only be planned again where the data is: in the package
    embedded = [record for record in records if record.labels["group"] == "embedded"]
    assert embedded
    for record in embedded[::4]:
        config, _ = record_config(record, [])
        assert config.seed == record.seed
    for record in records:
        config, _ = from_tree({**record.config, "runtime": {}})
        assert config.seed == record.seed
        assert method_label(config) == record.labels["method"]


def test_every_form_is_exported_and_a_peft_adapter_measured(run, results, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    words = [*TINY, "backbone.img_size=null"]
    assert run("method=lora", *words) == 0
    (record,) = Store(results).all()
    split, logits = load_digits_test(record), {}
    for name, card in (("a.pt2", "a.md"), ("peft", "peft/README.md"), ("a.onnx", "a.md"), ("a.safetensors", "a.md")):
        assert run("export", record.fingerprint, str(tmp_path / name), fast=False) == 0
        assert f"its card is {tmp_path / card}" in capsys.readouterr().out
        logits[name] = by_the_card((tmp_path / card).read_text(), name, split)
    expected = np.load(Store(results).predictions_path(record.fingerprint), allow_pickle=False)[: len(split)]
    assert {name: classes.argmax(1).tolist() for name, classes in logits.items()} == dict.fromkeys(
        logits, expected.tolist()
    )
    # the later form keeps the lines of those before it, and is not said to lie there once it does not
    card = (tmp_path / "a.md").read_text()
    assert [card.count(f'"{name}"') for name in ("a.pt2", "a.onnx", "a.safetensors", "peft")] == [1, 1, 2, 0]
    assert "library_name: timm" in card
    (tmp_path / "a.pt2").unlink()
    assert run("export", record.fingerprint, str(tmp_path / "a.onnx"), fast=False) == 0
    assert "a.pt2" not in (tmp_path / "a.md").read_text() and "a.safetensors" in (tmp_path / "a.md").read_text()
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "library_name: peft" in card
    assert f"| accuracy, test split | {record.metrics['test']['accuracy']:.2%} |" in card
    assert run("evaluate", str(tmp_path / "peft"), "dataset=digits", "runtime.progress=false", fast=False) == 0
    assert f"{record.metrics['test']['accuracy']:.2%} of 797 test images" in capsys.readouterr().out
    assert run("export", record.fingerprint, str(tmp_path / "a.bin"), fast=False) == 2
    assert "export writes no '.bin' files" in capsys.readouterr().err


def test_an_export_writes_over_no_text_of_others_and_takes_folders_by_any_name(
    run, results, tmp_path, capsys, monkeypatch
):
    assert run("method=lora", *TINY) == 0
    (record,) = Store(results).all()
    taken, mine = tmp_path / "mine", "my own words\n"
    taken.mkdir()
    for text, target in ((taken / "README.md", taken), (tmp_path / "b.md", tmp_path / "b.safetensors")):
        text.write_text(mine)
        assert run("export", record.fingerprint, str(target), "--results", str(results), fast=False) == 2
        assert f"{text}, and what is there is no card of this package; move it away" in capsys.readouterr().err
        assert (
            text.read_text() == mine
            and not list(taken.glob("*.safetensors"))
            and not (tmp_path / "b.safetensors").exists()
        )
    for name in ("b.md/x.pt2", "b.md/x.onnx", "b.md/x.safetensors"):
        assert run("export", record.fingerprint, str(tmp_path / name), "--results", str(results), fast=False) == 1
        assert "is not a folder" in capsys.readouterr().err
    dotted = tmp_path / "lora-v1.5"
    dotted.mkdir()
    monkeypatch.chdir(dotted)
    for target in (f"{dotted}/", "."):
        assert run("export", record.fingerprint, target, "--results", str(results), fast=False) == 0
        card = (dotted / "README.md").read_text()
        assert TAG in card and "library_name: peft" in card and '"lora-v1.5"' in card
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").mkdir()
    for target in ("run.v2/", "new.onnx/", "there.onnx"):
        capsys.readouterr()
        assert run("export", record.fingerprint, target, "--results", str(results), fast=False) == 0
        assert f"its card is {Path(target) / 'README.md'}" in capsys.readouterr().out
        assert (tmp_path / target / "adapter_model.safetensors").is_file()
        assert f'"{Path(target).name}"' in (tmp_path / target / "README.md").read_text()
    (tmp_path / "c.md").mkdir()
    assert run("export", record.fingerprint, "c.safetensors", "--results", str(results), fast=False) == 2
    assert "its card to c.md, which is a folder; name another target" in capsys.readouterr().err
    assert not (tmp_path / "c.safetensors").exists()
    assert run("export", record.fingerprint, "run.v3", "--results", str(results), fast=False) == 2
    assert "a new one with a / behind it" in capsys.readouterr().err


def by_the_card(card: str, file: str, images: torch.Tensor) -> np.ndarray:
    """Logits of prepared images by the lines of Python that a card gives for a file, up to those for own photos."""
    [lines] = [part for part in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if f'{file}"' in part]
    made: dict[str, Any] = {"images": images.numpy()}
    exec(lines.partition("# or for image files")[0], made)
    if "logits" in made:
        return made["logits"]
    with torch.inference_mode():
        return made["model"](images).numpy()


def test_an_export_goes_to_the_hub_with_its_card(run, results, tmp_path, capsys, monkeypatch):
    assert run("method=bitfit", *TINY) == 0
    (record,) = Store(results).all()
    capsys.readouterr()
    with stand_in(monkeypatch) as hub:
        target = tmp_path / "digits.safetensors"
        assert run("export", record.fingerprint, str(target), "--push", "me/digits", fast=False) == 0
    assert capsys.readouterr().out.endswith(f"pushed to {hub.address}/me/digits\n")
    card = (tmp_path / "digits.md").read_bytes()
    assert hub.files == {"me/digits": {"digits.safetensors": target.read_bytes(), "README.md": card}}
    assert 'hf_hub_download("me/digits", "digits.safetensors")' in card.decode()
    assert record.fingerprint in hub.messages[0]


def test_where_the_data_is_comes_from_the_words_and_not_from_the_adapter(run, results, tmp_path, capsys):
    for label, shade in (("dark", 30), ("light", 220)):
        for part, count in (("train", 6), ("test", 3)):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (32, 32), (shade + number, shade, number))
                picture.save(tmp_path / "photos" / part / label / f"{number}.png")
    words = [
        "dataset=folder",
        f"dataset.root={tmp_path / 'photos'}",
        "protocol=full",
        "train=smoke",
        "runtime.progress=false",
    ]
    assert run("method=bitfit", *words, fast=False) == 0
    (record,) = Store(results).all()
    export, reproduce = (
        ("export", record.fingerprint, str(tmp_path / "x.safetensors")),
        ("reproduce", record.fingerprint),
    )
    capsys.readouterr()
    for command in (export, reproduce):
        assert run(*command, fast=False) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "set dataset.root=" in line
    assert run(*export, words[1], fast=False) == 0
    assert run(*reproduce, words[1], fast=False) == 0
    assert "reproduced bit for bit" in capsys.readouterr().out


def test_the_documented_lines_restore_an_exported_adapter(run, results, tmp_path, capsys, monkeypatch):
    words = [*TINY, "backbone.img_size=null"]
    assert run("method=lora", *words) == 0
    (record,) = Store(results).all()
    target = tmp_path / "lora_digits.safetensors"
    assert run("export", record.fingerprint, str(target), fast=False) == 0
    assert f"wrote {target}: lora on digits" in capsys.readouterr().out
    page = (REPOSITORY / "docs" / "adapters.md").read_text()
    three_lines, embedded = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in three_lines.splitlines() if line]) == 3
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(embedded, made)
    assert made["facts"]["scores"] == {"test": {"accuracy": record.metrics["test"]["accuracy"]}, "validation": None}
    assert made["facts"]["class_names"] == [str(digit) for digit in range(10)]

    # the network is not here: timm's download is stood in for by the embedded weights
    net = made["timm"].create_model("vit_micro_patch4_32", num_classes=10)
    net.load_state_dict(load_file(embedded_file()), strict=False)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: net)
    again: dict[str, Any] = {}
    exec(three_lines, again)

    tensors = load_file(Store(results).adapter_path(record.fingerprint))
    assert torch.equal(again["model"].state_dict()["head.weight"], tensors["head.weight"])
    split = load_digits_test(record)
    with torch.inference_mode():
        predicted = [model(split).argmax(1) for model in (made["model"], again["model"])]
    expected = np.load(Store(results).predictions_path(record.fingerprint), allow_pickle=False)[: len(split)]
    assert all(np.array_equal(classes.numpy(), expected) for classes in predicted)


def load_digits_test(record: RunRecord, number: int = 64) -> torch.Tensor:
    """The first test images of digits as a user would prepare them: resized, scaled, normalised."""
    transform = ImageTransform(32, "squash", "bicubic", True, 1.0)
    raw = Digits().open().split("test")
    pixels = np.stack([transform.apply(raw.read(index)) for index in range(number)])
    images = torch.as_tensor(pixels).permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(record.data[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std
