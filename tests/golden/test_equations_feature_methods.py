"""Methods on features of a pair against their equations: what they compute, from what, and where they start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from peftbench.backbones.build import from_timm
from peftbench.backbones.pair import Pair
from peftbench.backbones.text import build_text
from peftbench.backbones.text_options import TEXTS
from peftbench.backbones.tokenizers import Words
from peftbench.contracts.backbones import PAIR, make, samples
from peftbench.methods import clip_linear_probe, tip_adapter
from peftbench.methods.base import METHODS, install
from peftbench.methods.observation import Findings

CLASSES = 5


def bare() -> Pair:
    pair = make(PAIR)
    assert isinstance(pair, Pair)
    return pair.eval()


@dataclass
class Shown:
    """Fifteen images of five classes to learn from and ten to validate on."""

    backbone: Pair

    def _batches(self, seed: int, labels: Tensor) -> Iterator[dict[str, Tensor]]:
        shape = (len(labels), 3, *self.backbone.sample_shape[1:])
        images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        images += labels.view(-1, 1, 1, 1)
        for part in torch.arange(len(labels)).split(4):
            yield {"image": images[part], "label": labels[part]}

    def images(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        return self._batches(0, torch.arange(15) % CLASSES)

    def augmented(self, batch_size: int, views: int) -> list[Iterator[dict[str, Tensor]]]:
        return [self._batches(view, torch.arange(15) % CLASSES) for view in range(views)]

    def held_out(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        return self._batches(9, torch.arange(10) % CLASSES)


def seen(name: str, **options: Any) -> tuple[Pair, Findings]:
    """A pair with an observing method, and what that found."""
    pair, method = bare(), METHODS.get(name)(**options)
    findings = method.observe(Shown(pair))
    install(method, pair, findings=findings)
    return pair.eval(), findings


JOINT = bare().feature_dim


def images_of(pair: Pair, seed: int = 0) -> Tensor:
    return torch.cat([batch["image"] for batch in Shown(pair)._batches(seed, torch.arange(15) % CLASSES)])


def norm(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def test_taskres_starts_as_zero_shot_and_adds_its_residual_before_norming() -> None:
    plain, pair = bare(), bare()
    install(METHODS.get("taskres")(scale=0.5), pair)
    x = samples(pair)
    with torch.no_grad():
        assert torch.equal(pair(x), plain(x))
        residual = pair.classes.residual  # type: ignore[union-attr]
        residual.normal_()  # type: ignore[operator]
        f, w = plain.image_features(x), plain.class_features(plain.image_features(x))
        expected = math.e * norm(f) @ norm(w + 0.5 * residual).T  # type: ignore[operator]
        torch.testing.assert_close(pair(x), expected)
    assert [(name, tuple(p.shape)) for name, p in pair.trainable] == [("classes.residual", (CLASSES, JOINT))]


def test_taskres_never_runs_the_text_tower_again() -> None:
    pair = bare()
    install(METHODS.get("taskres")(), pair)
    pair.text.register_forward_hook(lambda *_: pytest.fail("the text tower ran"))
    pair.text.net.blocks[0].register_forward_hook(lambda *_: pytest.fail("the text tower ran"))  # type: ignore
    pair.train()
    loss = pair(samples(pair)).square().sum()
    loss.backward()
    assert pair.classes.residual.grad.abs().max() > 0  # type: ignore[union-attr]


def test_clip_adapter_mixes_the_adapted_feature_with_its_input() -> None:
    plain, pair = bare(), bare()
    install(METHODS.get("clip_adapter")(), pair)
    x, projection = samples(pair), pair.image_projection[1]  # type: ignore[index]
    down, up = projection.down.weight, projection.up.weight
    with torch.no_grad():
        f = plain.image_features(x)
        expected = 0.2 * torch.relu(torch.relu(f @ down.T) @ up.T) + 0.8 * f
        torch.testing.assert_close(pair.image_features(x), expected)
        w = plain.class_features(f)
        torch.testing.assert_close(pair(x), math.e * norm(expected) @ norm(w).T)
    assert sum(p.numel() for _, p in pair.trainable) == 2 * JOINT * (JOINT // 4)


def test_without_their_share_the_pair_is_left_as_it_is() -> None:
    plain, adapter = bare(), bare()
    install(METHODS.get("clip_adapter")(ratio=0.0), adapter)
    tip, _ = seen("tip_adapter", alpha=0.0, views=1)
    x = samples(plain)
    with torch.no_grad():
        assert torch.equal(adapter(x), plain(x)) and torch.equal(tip(x), plain(x))


@pytest.mark.parametrize("name", ["tip_adapter", "tip_adapter_f"])
def test_tip_adapter_adds_the_classes_of_near_shots(name: str) -> None:
    plain = bare()
    pair, findings = seen(name, alpha=1.5, beta=5.5, views=3)
    x = samples(plain)
    with torch.no_grad():
        views = torch.stack([plain.image_features(images_of(plain, seed)) for seed in range(3)])
        keys = norm(views.mean(dim=0))
        torch.testing.assert_close(findings["keys"], keys)
        near = torch.exp(-5.5 * (1 - norm(plain.image_features(x)) @ keys.T))
        one_hot = torch.eye(CLASSES)[torch.arange(15) % CLASSES]
        torch.testing.assert_close(pair(x), plain(x) + 1.5 * near @ one_hot)
    trained = {tensor: tuple(p.shape) for tensor, p in pair.trainable}
    assert trained == ({} if name == "tip_adapter" else {"match.keys": (15, JOINT)})


def test_the_sheets_term_of_the_cache() -> None:
    match = tip_adapter.CacheMatch(torch.nn.Identity(), torch.eye(2), torch.tensor([0, 1]), 1.0, 5.5, 2)
    assert match.cached(torch.tensor([[0.8, -40.0]]), 5.5)[0, 0].item() == pytest.approx(0.33287, abs=1e-5)


def test_the_search_takes_the_first_best_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (len(tip_adapter.BETAS), len(tip_adapter.ALPHAS)) == (200, 20)
    assert (tip_adapter.BETAS[0], tip_adapter.BETAS[-1]) == (0.1, pytest.approx(7 - 6.9 / 200))
    monkeypatch.setattr(tip_adapter, "BETAS", (0.5, 4.0, 7.0))
    monkeypatch.setattr(tip_adapter, "ALPHAS", (0.1, 3.0, 30.0))
    pair, findings = seen("tip_adapter", search=True, views=1)
    plain, best = bare(), (-1, 0.0, 0.0)
    held_out = torch.cat([batch["image"] for batch in Shown(plain).held_out(4)])
    for beta in (0.5, 4.0, 7.0):
        for alpha in (0.1, 3.0, 30.0):
            other, _ = seen("tip_adapter", alpha=alpha, beta=beta, views=1)
            with torch.no_grad():
                hits = int((other(held_out).argmax(dim=1) == torch.arange(10) % CLASSES).sum())
            best = max(best, (hits, alpha, beta), key=lambda found: found[0])
    assert (float(findings["alpha"]), float(findings["beta"])) == best[1:]
    assert (pair.match.alpha, pair.match.beta) == best[1:]


def test_the_linear_probe_is_scikit_learns_regression_on_raw_features() -> None:
    from sklearn.linear_model import LogisticRegression

    pair, _ = seen("clip_linear_probe", strength=2.0)
    plain = bare()
    with torch.no_grad():
        # in the same batches: where the solver stops moves by more than the last bits of its features do
        batches = Shown(plain).images(4)
        f = torch.cat([plain.image_features(batch["image"]) for batch in batches]).numpy()
        expected = LogisticRegression(C=2.0, max_iter=1000).fit(f, np.arange(15) % CLASSES)
        x = samples(plain)
        wanted = expected.decision_function(plain.image_features(x).numpy())
        torch.testing.assert_close(pair(x), torch.from_numpy(wanted).float(), rtol=1e-3, atol=1e-3)
    assert sum(p.numel() for _, p in pair.trainable) == CLASSES * (JOINT + 1)


def test_the_probe_s_search_is_coop_s() -> None:
    """Peak at 10^1.3: the grid finds 10^2, whose span from 1 to 3 then halves towards it eight times."""
    asked: list[float] = []

    def accuracy(strength: float) -> float:
        asked.append(math.log10(strength))
        return -abs(math.log10(strength) - 1.3)

    found = clip_linear_probe.searched(accuracy)
    left, right = 1.0, 3.0
    for _ in range(8):
        if abs(left - 1.3) > abs(right - 1.3):
            chosen, left = right, (left + right) / 2
        else:
            chosen, right = left, (left + right) / 2
    assert math.log10(found) == pytest.approx(chosen)
    assert asked[:7] == [6, 4, 2, 0, -2, -4, -6] and len(asked) == 7 + 16


def test_one_image_a_class_is_fitted_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    fitted = clip_linear_probe._fitted(np.eye(5), np.arange(5), 1.0)
    assert fitted.predict(np.eye(5)).tolist() == [0, 1, 2, 3, 4] and not list(recwarn)


def test_two_classes_and_classes_without_images_have_their_rows() -> None:
    from sklearn.linear_model import LogisticRegression

    features = np.random.RandomState(0).randn(12, 4)
    fitted = LogisticRegression().fit(features, np.array([1, 3] * 6))
    for dtype, error in ((np.float32, 1e-5), (np.float64, 1e-12)):
        weight, bias = clip_linear_probe.weights(fitted, 4, dtype)
        logits = torch.from_numpy(features.astype(dtype)) @ weight.T + bias
        assert logits.argmax(dim=1).tolist() == fitted.predict(features).tolist()
        chances = torch.softmax(logits, dim=1)[:, [1, 3]].numpy()
        assert chances == pytest.approx(fitted.predict_proba(features), abs=error)


@pytest.mark.parametrize(("towers", "count"), [(["image", "text"], 184_320), (["image"], 110_592), (["text"], 73_728)])
def test_clip_lora_counts(towers: list[str], count: int) -> None:
    with torch.device("meta"):
        image = from_timm(timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0))
        pair = Pair(image, build_text(TEXTS["clip_512"]), Words([]))
        install(METHODS.get("clip_lora")(towers=towers), pair)
    assert sum(p.numel() for _, p in pair.trainable) == count


def test_clip_lora_adds_alpha_over_the_root_of_its_rank() -> None:
    plain, pair = bare(), bare()
    install(METHODS.get("clip_lora")(dropout=0.0), pair)
    x = samples(pair)
    with torch.no_grad():
        torch.testing.assert_close(pair(x), plain(x))
        for tensor in (p for name, p in pair.trainable if name.endswith(".up")):
            tensor.normal_(std=0.3)
        for tower in (plain.image, plain.text):
            changed = pair.image if tower is plain.image else pair.text
            for site, own in zip(tower.sites("attn.qkv"), changed.sites("attn.qkv"), strict=True):
                deltas = [own.module.deltas[str(part)] for part in range(3)]
                update = torch.cat([delta.up @ delta.down for delta in deltas]) / math.sqrt(2)
                site.module.weight += update
        torch.testing.assert_close(pair(x), plain(x), rtol=1e-4, atol=1e-5)
    assert len({id(module) for module in pair.modules() if isinstance(module, torch.nn.Dropout)}) >= 3
