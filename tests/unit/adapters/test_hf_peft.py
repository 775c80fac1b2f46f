"""Low-rank adapters in PEFT's format: the library itself gives the same outputs, and what it writes is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from peftbench.adapters.hf_peft import CONFIG, attach_peft, write_peft
from peftbench.backbones.build import from_timm
from peftbench.cli.commands import predict
from peftbench.foundation.errors import BadInput, MissingInput, NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.methods.binary import FewBitHead
from peftbench.tasks.model import Classifier

NUM_CLASSES = 5
MODELS = {
    "vit_micro_patch4_32": (32, {}),
    "swin_tiny_patch4_window7_224": (32, {"img_size": 32, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24}),
    "convnext_tiny": (64, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
}


def plain(model: str, num_classes: int = 0) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(model, num_classes=num_classes, **MODELS[model][1])


def images(model: str) -> torch.Tensor:
    size = MODELS[model][0]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def trained(method: str, model: str, **options: object) -> Classifier:
    backbone = from_timm(plain(model), None)
    install(METHODS.get(method)(**options), backbone, 0, None)
    classifier = Classifier(backbone, NUM_CLASSES, 0).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return classifier


def test_a_head_that_a_method_changed_is_written_as_it_acts(tmp_path: Path) -> None:
    model = "vit_micro_patch4_32"
    classifier = trained("lora", model)
    classifier.head = FewBitHead(classifier.head, 1).eval()
    write_peft(classifier, model, tmp_path)
    again = Classifier(from_timm(plain(model), None), NUM_CLASSES, 0)
    attach_peft(again, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images(model)), classifier(images(model)), rtol=0, atol=1e-5)


def test_predict_says_what_it_takes_instead_of_such_a_folder(tmp_path: Path) -> None:
    write_peft(trained("lora", "vit_micro_patch4_32"), "vit_micro_patch4_32", tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(BadInput, match=r"PEFT forms are for other programs; predict takes.*FILE\.safetensors"):
        predict.main([str(tmp_path), str(tmp_path / "photo.png")])


CASES = [
    ("lora", "vit_micro_patch4_32", {"targets": ["q", "v", "fc1"], "alpha": 16.0}),
    ("lora_qkv_shared", "vit_micro_patch4_32", {"scale": 0.5}),
    ("lora", "swin_tiny_patch4_window7_224", {"targets": ["k", "proj"]}),
    ("lora", "convnext_tiny", {"targets": ["fc1", "fc2"], "scaling": "rank_root"}),
]


@pytest.mark.parametrize(("method", "model", "options"), CASES)
def test_the_library_gives_the_same_outputs(method: str, model: str, options: dict, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    classifier = trained(method, model, **options)
    write_peft(classifier, model, tmp_path)
    backbone = plain(model)
    whole = plain(model, NUM_CLASSES)
    # the same frozen weights, another classifier: the adapter brings its own
    whole.load_state_dict(backbone.state_dict(), strict=False)
    loaded = peft.PeftModel.from_pretrained(whole, tmp_path).eval()
    with torch.no_grad():
        expected = classifier(images(model))
        torch.testing.assert_close(loaded(images(model)), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loaded.merge_and_unload()(images(model)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "model", "options"), CASES)
def test_what_is_written_is_read_back(method: str, model: str, options: dict, tmp_path: Path) -> None:
    classifier = trained(method, model, **options)
    write_peft(classifier, model, tmp_path)
    again = trained("linear", model)
    attach_peft(again, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(images(model)), classifier(images(model)), rtol=1e-5, atol=1e-5)


def test_what_the_library_trained_is_read(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = "vit_micro_patch4_32"
    whole = plain(model, NUM_CLASSES)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["attn.qkv", "mlp.fc2"],
        rank_pattern={"mlp.fc2": 2},
        alpha_pattern={"mlp.fc2": 10},
        modules_to_save=["head"],
    )
    wrapped = peft.get_peft_model(whole, config).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    wrapped.save_pretrained(tmp_path)
    again = trained("linear", model)
    again.backbone.net.load_state_dict(plain(model, NUM_CLASSES).state_dict(), strict=False)
    attach_peft(again, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(images(model)), wrapped(images(model)), rtol=1e-5, atol=1e-5)


def test_other_methods_are_sent_to_the_own_format(tmp_path: Path) -> None:
    others = {
        "bitfit": {},
        "linear": {},
        "adaptformer": {},
        "dora": {},
        "vera": {},
        "lora": {"init": "pissa", "rank": 2},
    }
    for method, options in others.items():
        with pytest.raises(NotApplicable, match=r"write a \.safetensors"):
            write_peft(trained(method, "vit_micro_patch4_32", **options), "vit_micro_patch4_32", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    model = "vit_micro_patch4_32"
    with pytest.raises(MissingInput, match=r"no adapter_config\.json"):
        attach_peft(trained("linear", model), tmp_path)
    write_peft(trained("lora", model), model, tmp_path)
    small = Classifier(from_timm(plain(model), None), 3, 0)
    with pytest.raises(BadInput, match="not one for these classes"):
        attach_peft(small, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    for change, message in (
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "only peft_type LORA"),
        ({"lora_alpha": "8"}, "lora_alpha must be a number, got '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number, got nan"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a number, got 1000"),
        ({"alpha_pattern": [1]}, r"alpha_pattern must be an object, got \[1\]"),
    ):
        (tmp_path / CONFIG).write_text(json.dumps(config | change))
        with pytest.raises(BadInput, match=message):
            attach_peft(trained("linear", model), tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(BadInput, match="is not JSON"):
            attach_peft(trained("linear", model), tmp_path)
