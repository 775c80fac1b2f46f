"""An image network on clips: frames in the batch, what is averaged where, and that clips and frames keep apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from peftbench.backbones.build import build_backbone
from peftbench.backbones.frames import mean_over_frames
from peftbench.backbones.options import BackboneSpec
from peftbench.contracts.backbones import OF_CLIPS, look, make, samples
from peftbench.contracts.test_methods import fitting, nudge
from peftbench.foundation.errors import ConfigError, NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.objectives import base as objectives
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.base import Classes
from peftbench.tasks.classification import Classification
from peftbench.train.options import TrainSpec

OTHERS = ("mixes_time", "of_pairs", "by_task")
FRAMEWISE = [name for name in METHODS.names() if not any(getattr(METHODS.get(name), fact) for fact in OTHERS)]


def clips_of(backbone: str = "vit_cls", count: int = 2) -> Tensor:
    return samples(make(backbone + OF_CLIPS), count)


@pytest.mark.parametrize("name", FRAMEWISE)
def test_every_method_of_images_runs_inside_unchanged(name: str) -> None:
    """Features of a clip are the mean of those of its frames, and no frame or clip sees another."""
    method, images, clips = fitting(name), make("vit_cls"), make("vit_cls" + OF_CLIPS)
    found = look(method, images)
    install(method, images, findings=found)
    install(method, clips, findings=found)
    nudge(images.eval()), nudge(clips.eval())
    batch = clips_of()
    with torch.no_grad():
        features, turned = clips(batch), clips(batch[:, [2, 0, 1]])
        expected = torch.stack([images(clip).mean(dim=0) for clip in batch])
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turned, features, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FRAMEWISE if METHODS.get(name).observes])
def test_methods_that_look_at_images_look_at_clips(name: str) -> None:
    method, clips = fitting(name), make("vit_cls" + OF_CLIPS)
    install(method, clips, findings=look(method, clips))
    with torch.no_grad():
        assert clips(clips_of()).isfinite().all()


@pytest.mark.parametrize("backbone", ["vit_cls", "vit_avg", "vit_prenorm", "eva_rope", "swin", "convnext"])
@torch.no_grad()
def test_the_mean_is_taken_behind_the_final_norm_or_ahead_of_it(backbone: str) -> None:
    bare, behind, ahead = (make(backbone + suffix) for suffix in ("", OF_CLIPS, OF_CLIPS))
    ahead.read_frames("mean_then_norm")
    batch = clips_of(backbone)
    frames = batch.flatten(0, 1)
    torch.testing.assert_close(behind(batch), bare(frames).unflatten(0, (2, 3)).mean(1))
    seen: list[Tensor] = []
    final = bare.sites("norm.final")[0].module
    final.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    final.register_forward_pre_hook(lambda module, arguments: arguments[0].unflatten(0, (-1, 3)).mean(1))
    expected = bare(frames)
    assert len(seen[0]) == 6 and expected.shape == (2, bare.feature_dim)
    torch.testing.assert_close(ahead(batch), expected)
    assert not torch.allclose(ahead(batch), behind(batch), atol=1e-4)


@torch.no_grad()
def test_the_order_of_frames_is_no_matter_to_the_bit() -> None:
    backbone, batch = make("vit_cls" + OF_CLIPS), clips_of()
    assert torch.equal(backbone(batch), backbone(batch[:, [2, 0, 1]]))
    features = torch.randn(2 * 3, 48, generator=torch.Generator().manual_seed(0))
    turned = features.unflatten(0, (2, 3))[:, [1, 2, 0]].flatten(0, 1)
    assert torch.equal(mean_over_frames(features, 3), mean_over_frames(turned, 3))


def test_other_shapes_than_clips_are_told() -> None:
    with pytest.raises(ValueError, match=r"clips \[batch, 3, 3, height, width\] and was given \[6, 3, 32, 32\]"):
        make("vit_cls" + OF_CLIPS)(clips_of().flatten(0, 1))


def test_a_read_out_of_frames_needs_frames() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.frame_readout=mean_then_norm speaks of clips"):
        build_backbone(BackboneSpec(weights="none", frame_readout="mean_then_norm"))


def test_the_option_wins_over_the_method() -> None:
    spec = BackboneSpec(weights="none", frame_readout="norm_then_mean")
    built = [build_backbone(s, frames=3).eval() for s in (BackboneSpec(weights="none"), spec)]
    batch = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for backbone in built:
        install(METHODS.get("st_adapter")(), backbone)
    with torch.no_grad():
        assert not torch.allclose(built[0](batch), built[1](batch), atol=1e-4)


def test_methods_over_time_need_clips() -> None:
    with pytest.raises(NotApplicable, match=r"st_adapter works across the frames of clips; this data has images"):
        install(METHODS.get("st_adapter")(), make("vit_cls"))


@pytest.mark.parametrize("name", ["gist", "pesf_kd"])
def test_objectives_of_images_work_on_clips(name: str) -> None:
    """The loss is that of the mean features, and its gradient reaches what the objective trains."""
    objective, backbone, classes = OBJECTIVES.get(name)(), make("vit_cls" + OF_CLIPS), Classes.numbered(4)
    own = objectives.prepare(objective, backbone, 4, seed=0)
    install(METHODS.get("linear")(), backbone)
    model = Classification().model(backbone, classes, 0)
    objectives.install(objective, model, own, 4)
    loss_fn = objective.loss_fn(model, Classification().loss_fn(TrainSpec()))
    loss = loss_fn(model.train(), {"image": clips_of(), "label": torch.tensor([1, 3])})
    loss.backward()
    assert loss.ndim == 0 and all(p.grad is not None for p in own.parameters() if p.requires_grad)
    with torch.no_grad():
        assert model.eval()(clips_of()).shape == (2, 4)
