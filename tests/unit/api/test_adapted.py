"""A method on one's own timm model, in one's own loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import peftbench
from peftbench.foundation.errors import BadInput, ConfigError, NotApplicable
from peftbench.methods.base import has_interventions

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 24, "num_heads": (2, 4), "depths": (1, 1)}
NETS = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "swin": ("swin_tiny_patch4_window7_224", SWIN),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
}


def net(family: str = "vit", num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    name, arguments = NETS[family]
    return timm.create_model(name, num_classes=num_classes, **arguments)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 3, 32, 32, generator=generator), torch.arange(12) % 3


def train(model: peftbench.Adapted, steps: int = 15) -> list[float]:
    optimizer = torch.optim.AdamW(model.trainable.values(), lr=5e-3)
    images, labels = batch()
    losses = []
    model.train()
    for _ in range(steps):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def test_lora_starts_as_the_model_itself_and_lists_what_trains() -> None:
    images, _ = batch()
    expected = net().eval()(images)
    model = peftbench.attach("lora", net(), rank=4).eval()
    torch.testing.assert_close(model(images), expected)
    # q and v of two blocks: A [4, 48] and B [48, 4] each, and the classifier [3, 48] with its bias
    assert model.num_trainable == 2 * 2 * 2 * 4 * 48 + 3 * 49
    listed = model.table()
    assert listed["parameters"].sum() == model.num_trainable and list(listed["name"]) == list(model.trainable)
    assert set(model.trainable) == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", NETS)
def test_a_plain_loop_trains_the_method_and_nothing_else(family: str, tmp_path: Path) -> None:
    model = peftbench.attach("adaptformer", net(family))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = train(model)
    assert losses[-1] < 0.8 * losses[0]
    now = dict(model.named_parameters())
    assert frozen and all(torch.equal(now[name], tensor) for name, tensor in frozen.items())
    path = model.save(tmp_path / "own.safetensors")
    images, _ = batch()
    again = peftbench.load(path, net(family))
    assert torch.equal(again(images), model(images))


def test_merging_gives_the_plain_timm_model_with_its_classifier() -> None:
    model = peftbench.attach("lora", net("swin"), rank=4)
    train(model)
    images, _ = batch()
    expected = model(images)
    plain = model.merge().eval()
    assert type(plain) is type(net("swin")) and not has_interventions(plain)
    assert plain.state_dict().keys() == net("swin").state_dict().keys()
    torch.testing.assert_close(plain(images), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(NotApplicable, match="vpt_deep does not fold"):
        peftbench.attach("vpt", net()).merge()


def test_accelerate_trains_it_like_a_plain_loop() -> None:
    accelerate = pytest.importorskip("accelerate")
    plain, prepared = peftbench.attach("bitfit", net()), peftbench.attach("bitfit", net())
    losses = train(plain, 4)
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(prepared.trainable.values(), lr=5e-3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch()), batch_size=12)
    model, optimizer, loader = accelerator.prepare(prepared, optimizer, loader)
    model.train()
    found = []
    for _ in range(4):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            found.append(loss.item())
    assert found == pytest.approx(losses, rel=1e-5)
    unwrapped = accelerator.unwrap_model(model)
    assert isinstance(unwrapped, peftbench.Adapted)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(unwrapped.parameters(), plain.parameters(), strict=True))


def test_classes_asked_for_get_a_new_head_and_none_gives_features() -> None:
    images, _ = batch()
    assert peftbench.attach("ssf", net(), num_classes=7)(images).shape == (12, 7)
    assert peftbench.attach("ssf", net(), num_classes=0)(images).shape == (12, 48)
    first, second = (peftbench.attach("lora", net(), num_classes=7, seed=1) for _ in range(2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert not any(name.startswith("head") for name in peftbench.attach("lora", net(), train_head=False).trainable)


def test_a_model_of_clips_is_attached_saved_and_loaded(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="st_adapter works across the frames of clips"):
        peftbench.attach("st_adapter", net())
    model = peftbench.attach("st_adapter", net(), frames=3).eval()
    clips = batch()[0].unflatten(0, (4, 3))
    with torch.no_grad():
        for tensor in model.trainable.values():
            tensor.add_(0.1)
        logits = model(clips)
        assert logits.shape == (4, 3) and not torch.allclose(model(clips.flip(1)), logits)
        path = model.save(tmp_path / "clips.safetensors")
        assert torch.equal(peftbench.load(path, net())(clips), logits)
    with pytest.raises(BadInput, match="was trained with frames=3; attach the method with the same"):
        peftbench.attach("st_adapter", net(), frames=4).load(path)


VIDEO_SWIN = {"img_size": 32, "num_frames": 8, "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)}


@pytest.mark.parametrize(
    ("name", "arguments", "frames"),
    [
        ("vit_small_patch16_videomae_224", VIT | {"num_frames": 4}, 4),
        ("swin3d_tiny_patch244_window877", VIDEO_SWIN | {"window_size": (2, 4, 4)}, 8),
    ],
)
def test_networks_of_clips_are_attached_with_their_own_frames_and_merged(
    name: str, arguments: dict[str, Any], frames: int
) -> None:
    def of_clips() -> torch.nn.Module:
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=5, **arguments)

    clips = torch.randn(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = peftbench.attach("lora", of_clips(), rank=2).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(clips), of_clips().eval()(clips.transpose(1, 2)))
        for tensor in model.trainable.values():
            tensor.add_(0.01)
        logits = model(clips)
        assert logits.shape == (2, 5) and model.backbone.shape.frames == frames
        torch.testing.assert_close(model.merge()(clips.transpose(1, 2)), logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=f"frames=3: this network was built for clips of {frames} frames"):
        peftbench.attach("lora", of_clips(), frames=3)


def test_save_takes_the_place_of_an_own_file_and_of_no_other(tmp_path: Path) -> None:
    model, weights = peftbench.attach("lora", net()), tmp_path / "weights.safetensors"
    assert model.save(model.save(tmp_path / "own.safetensors")).is_file()
    save_file(net().state_dict(), weights)
    with pytest.raises(ConfigError, match=r"weights\.safetensors would be written over, .* no model of save\(\)"):
        model.save(weights)
    assert load_file(weights).keys() == net().state_dict().keys()


def test_a_file_of_other_weights_or_another_kind_is_refused(tmp_path: Path) -> None:
    path = peftbench.attach("lora", net()).save(tmp_path / "own.safetensors")
    other = net()
    with torch.no_grad():
        other.cls_token.add_(1)
    with pytest.raises(BadInput, match="other weights"):
        peftbench.load(path, other)
    with pytest.raises(BadInput, match="does not fit"):
        peftbench.attach("bitfit", net()).load(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"digest": None}, "facts.digest is None"),
        ({"seed": 2**64}, "facts.seed is"),
        ({"num_classes": -1}, "facts.num_classes is -1"),
        (
            {"method": {"name": "lora", "num_classes": 3}},
            r"cannot attach its method .unknown option method\.num_classes",
        ),
        ({"method": {"name": "lorra"}}, "cannot attach its method .*did you mean 'lora'"),
    ],
)
def test_a_file_with_other_facts_is_one_line(tmp_path: Path, change: dict[str, object], why: str) -> None:
    path = peftbench.attach("lora", net()).save(tmp_path / "own.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    facts = json.loads(metadata["facts"]) | change
    save_file(load_file(path), path, metadata=metadata | {"facts": json.dumps(facts)})
    with pytest.raises(BadInput, match=why):
        peftbench.load(path, net())


def test_wrong_words_say_what_is_right() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        peftbench.attach("lorra", net())
    with pytest.raises(ConfigError, match=r"unknown option method\.rnk; did you mean 'rank'"):
        peftbench.attach("lora", net(), rnk=4)
    with pytest.raises(NotApplicable, match="looks at training images"):
        peftbench.attach("gps", net())
    with pytest.raises(NotApplicable, match="coop needs a backbone that reads images and texts"):
        peftbench.attach("coop", net())
    with pytest.raises(NotApplicable, match="ResNet is not a supported family"):
        peftbench.attach("lora", timm.create_model("resnet18"))


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_a_model_takes_one_method_at_a_time(method: str) -> None:
    """A cell of a notebook that runs twice. BitFit leaves no wrapper, but the model's classifier is gone as well."""
    own = net()
    images, _ = batch()
    model = peftbench.attach(method, own)
    with pytest.raises(NotApplicable, match=f"has {method} attached already; make it anew"):
        peftbench.attach("lora", own)
    if method == "lora":
        again = peftbench.attach("ssf", model.merge())
        assert again(images).shape == (12, 3)


def test_a_method_without_a_place_leaves_the_model_for_another() -> None:
    own = net()
    images, _ = batch()
    expected = own.eval()(images)
    with pytest.raises(NotApplicable, match="works across the frames"):
        peftbench.attach("st_adapter", own)
    torch.testing.assert_close(peftbench.attach("lora", own).eval()(images), expected)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "why"),
    [
        (("lora", "vit_tiny_patch16_224"), {}, ConfigError, "attached to a model .*, got str"),
        (("lora", torch.nn.Linear(2, 2)), {}, NotApplicable, "Linear is not a supported family"),
        ((3, torch.nn.Linear(2, 2)), {}, ConfigError, r"a name of peftbench\.methods\(\), got 3"),
        (("lora", None), {"num_classes": "ten"}, ConfigError, "num_classes must be a whole number .*'ten'"),
        (("lora", None), {"num_classes": -1}, ConfigError, "num_classes must be .* at least 0, got -1"),
        (("lora", None), {"seed": 0.5, "frames": 0}, ConfigError, "(?s)seed must be.*frames must be .* at least 1"),
        (("lora", None), {"rank": "eight"}, ConfigError, r"method\.rank must be an integer"),
    ],
)
def test_wrong_types_are_one_line(
    arguments: tuple[object, object], options: dict[str, object], error: type[Exception], why: str
) -> None:
    method, model = arguments
    with pytest.raises(error, match=why):
        peftbench.attach(method, net() if model is None else model, **options)  # type: ignore[arg-type]


def test_a_saved_method_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"save\(\) writes a .safetensors file, got .*own.pt"):
        peftbench.attach("lora", net()).save(tmp_path / "own.pt")
    assert not list(tmp_path.iterdir())
