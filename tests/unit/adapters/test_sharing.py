"""An exported adapter turns a plain timm model into the classifier that was trained."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from peftbench.adapters.card import card
from peftbench.adapters.file import adapter_bytes, adapter_tensors, read_adapter
from peftbench.adapters.sharing import adapter_facts, export_adapter, facts_of, weights_digest, with_adapter
from peftbench.backbones.build import build_backbone, from_timm
from peftbench.backbones.options import BackboneSpec
from peftbench.cells.evidence import random_evidence
from peftbench.cells.export import card_of, check_target, form_of
from peftbench.data.pixels.transform import ImageTransform
from peftbench.foundation.errors import BadInput, ConfigError
from peftbench.methods.base import METHODS, install
from peftbench.methods.observation import Findings
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.base import TASKS
from peftbench.tasks.model import Classifier

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
NUM_CLASSES = 5


def plain() -> torch.nn.Module:
    """The model a user would make: timm's own, with a classifier of its own, and pretrained weights."""
    torch.manual_seed(1)
    return timm.create_model("vit_micro_patch4_32", num_classes=7)


def trained(name: str, net: torch.nn.Module) -> tuple[Classifier, Findings | None]:
    """A classifier whose trainable tensors all differ from their start, and what its method found in the images."""
    net.reset_classifier(0)
    backbone = from_timm(net, None)
    method = METHODS.get(name)()
    findings = method.observe(random_evidence(backbone)) if method.looks_first else None
    install(method, backbone, 0, findings)
    model = Classifier(backbone, NUM_CLASSES, 0).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model, findings


TESTED = {"val": None, "test": {"accuracy": 0.5}}


def exported(name: str, tmp_path, metrics=TESTED):
    net = plain()
    buffers = tuple(net.buffers())
    model, findings = trained(name, net)
    adapter, target = tmp_path / "adapter.safetensors", tmp_path / f"{name}.safetensors"
    adapter.write_bytes(adapter_bytes(adapter_tensors(model, buffers, findings), {}, "0" * 16))
    without = plain()
    without.reset_classifier(0)
    config = SimpleNamespace(
        dataset=SimpleNamespace(),
        method=METHODS.get(name)(),
        objective=OBJECTIVES.get("none")(),
        task=TASKS.get("classification")(),
        backbone=BackboneSpec(),
        seed=0,
        protocol=SimpleNamespace(resize="squash", crop_pct=1.0),
    )
    record = SimpleNamespace(
        fingerprint="0" * 16,
        labels={"method": name, "dataset": "digits"},
        metrics=metrics,
        primary="accuracy",
        data={"class_names": list("abcde"), "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        weights={"id": "none"},
        provenance={"version": "1", "git_commit": None},
    )
    facts = facts_of(record, config, ImageTransform(32), weights_digest(without))
    return model, export_adapter(facts, read_adapter(adapter)[0], target)


# one of each way to change a network: weights, beside a linear map, tokens, a side network, pooling of its own, and
# places found by looking at images
@pytest.mark.parametrize(
    "name", ["linear", "bitfit", "lora", "adaptformer", "ssf", "vpt_deep", "lst", "vqt", "full", "gps", "sct"]
)
def test_three_lines_give_the_trained_classifier(name, tmp_path):
    model, path = exported(name, tmp_path)
    restored = with_adapter(plain(), path)
    with torch.no_grad():
        assert torch.equal(restored(IMAGES), model(IMAGES))
    assert not restored.training


def test_a_mergeable_method_leaves_plain_modules(tmp_path):
    model, path = exported("lora", tmp_path)
    restored = with_adapter(plain(), path, merge=True)
    kinds = [type(module) for module in restored.backbone.net.modules()]
    assert kinds == [type(module) for module in trained("linear", plain())[0].backbone.net.modules()]
    with torch.no_grad():
        torch.testing.assert_close(restored(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)


def test_the_file_tells_how_to_use_it_and_no_place_of_a_machine(tmp_path):
    _, path = exported("lora", tmp_path)
    facts = adapter_facts(path)
    assert facts["class_names"] == list("abcde")
    assert facts["images"]["size"] == 32 and facts["images"]["mean"] == [0.5, 0.5, 0.5]
    with safe_open(path, framework="pt") as file:
        assert str(tmp_path) not in str(file.metadata())


@pytest.mark.parametrize(
    ("metrics", "scores", "told"),
    [
        (
            TESTED,
            {"test": {"accuracy": 0.5}, "validation": None},
            ["| accuracy, test split | 50.00% |"],
        ),
        (
            {"val": {"accuracy": 0.705}, "test": None},
            {"test": None, "validation": {"accuracy": 0.705}},
            ["| accuracy, test split | not measured |", "| accuracy, validation split | 70.50% |"],
        ),
        (
            {"val": {"accuracy": 0.75}, "test": {"accuracy": 0.5}},
            {"test": {"accuracy": 0.5}, "validation": {"accuracy": 0.75}},
            ["| accuracy, test split | 50.00% |", "| accuracy, validation split | 75.00% |"],
        ),
        (
            {"val": None, "test": None},
            {"test": None, "validation": None},
            ["| accuracy, test split | not measured |"],
        ),
    ],
)
def test_scores_are_told_with_their_split(tmp_path, metrics, scores, told):
    _, path = exported("lora", tmp_path, metrics)
    facts = adapter_facts(path)
    assert facts["scores"] == scores and "accuracy" not in facts
    lines = card(facts, {path.name: "adapter"}).splitlines()
    assert [line for line in lines if " split |" in line] == told


def test_a_file_of_before_scores_had_their_split_still_loads(tmp_path):
    model, path = exported("lora", tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(metadata["facts"])
    del facts["scores"]
    save_file(tensors, path, metadata=metadata | {"facts": json.dumps(facts | {"accuracy": 0.5})})
    assert adapter_facts(path)["accuracy"] == 0.5
    with torch.no_grad():
        assert torch.equal(with_adapter(plain(), path)(IMAGES), model(IMAGES))


def test_an_export_takes_the_place_of_an_own_one_and_of_no_other_file(tmp_path):
    _, path = exported("lora", tmp_path)
    check_target(path)
    weights, results = tmp_path / "weights.safetensors", tmp_path / "adapter.safetensors"
    save_file(plain().state_dict(), weights)
    before = weights.read_bytes()
    for other in (weights, results):
        with pytest.raises(ConfigError, match=rf"{other.name} would be written over, .* no export of this package"):
            check_target(other)
    with pytest.raises(ConfigError, match=r"weights\.safetensors is what this command reads"):
        check_target(weights, [tmp_path / "linked", weights])
    assert weights.read_bytes() == before


@pytest.mark.parametrize("name", ["own.onnx", "own.pt2", "own/adapter_config.json"])
def test_a_form_that_says_nothing_of_itself_is_known_by_its_card(name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    target = file.parent if file.suffix == ".json" else file
    file.write_text("of others")
    with pytest.raises(ConfigError, match=rf"{file.name} would be written over"):
        check_target(target)
    facts = adapter_facts(exported("lora", tmp_path)[1])
    if target == file:
        # as an export of another record leaves it, which replaced one form alone
        card_of(target).write_text(card(facts, {"another.onnx": "onnx"}))
        check_target(target)
    card_of(target).write_text(card(facts, {target.name: form_of(target)}))
    check_target(target)


def test_other_weights_are_refused(tmp_path):
    _, path = exported("lora", tmp_path)
    other = copy.deepcopy(plain())
    with torch.no_grad():
        other.blocks[3].mlp.fc1.bias[0] += 1e-3
    with pytest.raises(BadInput, match=r"trained on vit_micro \(vit_micro_patch4_32\); this model has other weights"):
        with_adapter(other, path)


def test_the_adapter_of_a_results_folder_is_to_be_exported_first(tmp_path):
    _, _ = exported("lora", tmp_path)
    with pytest.raises(BadInput, match="python -m peftbench export"):
        adapter_facts(tmp_path / "adapter.safetensors")


def test_the_embedded_backbone_digests_like_the_file_it_was_loaded_from():
    first, second = (weights_digest(build_backbone(BackboneSpec()).net) for _ in range(2))
    assert first == second
    assert first != weights_digest(build_backbone(BackboneSpec(weights="none")).net)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (None, "is not an exported adapter"),
        ({"format": "peftbench-adapter-1"}, "cannot be read"),
        ({"facts": "{"}, "cannot be read"),
        ({"facts": "[" * 10_000}, "cannot be read"),
        ({"facts": "[1]"}, r"facts is \[1\] and not an object"),
        ({"facts": "{}"}, "facts.method is missing"),
        ({"facts": '{"method": "lora"}'}, "facts.method is 'lora' and not an object"),
    ],
)
def test_a_file_that_says_something_else_of_itself_is_one_line(tmp_path, metadata, why):
    path = tmp_path / "a.safetensors"
    whole = None if metadata is None else {"format": "peftbench-adapter-1", **metadata}
    save_file({"x": torch.zeros(1)}, path, metadata=whole)
    for ask in (lambda: adapter_facts(path), lambda: with_adapter(plain(), path)):
        with pytest.raises(BadInput, match=why) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": -1}, "facts.seed is -1"),
        ({"seed": 2**63}, "facts.seed is 9223372036854775808"),
        ({"seed": True}, "facts.seed is True"),
        ({"class_names": ["a", 1]}, r"facts.class_names is \['a', 1\]"),
        ({"images": None}, "facts.images is None and not an object"),
        ({"images": {}}, "facts.images.size is missing"),
        ({"backbone": {"title": "t"}}, "facts.backbone.model is missing"),
    ],
)
def test_facts_of_another_kind_are_one_line(tmp_path, change, why):
    _, path = exported("lora", tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata=metadata | {"facts": json.dumps(json.loads(metadata["facts"]) | change)})
    with pytest.raises(BadInput, match=why):
        adapter_facts(path)


def test_a_method_this_version_does_not_know_is_one_line(tmp_path):
    _, path = exported("lora", tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata["facts"] = metadata["facts"].replace('"name": "lora"', '"name": "lorra"')
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(BadInput, match=r"cannot attach its method .unknown method 'lorra'"):
        with_adapter(plain(), path)
