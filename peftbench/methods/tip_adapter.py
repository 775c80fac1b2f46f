"""Tip-Adapter (Zhang et al., ECCV 2022, arXiv:2207.09519): the few shots as keys beside the text features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.backbones.pair import Pair
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.of_pair import OfPair
from peftbench.methods.pair_features import BATCH, features_of, pair_of, pair_shape

# The released search (gaopengcuhk/Tip-Adapter, `search_hp`): beta from 0.1 towards 7, alpha from 0.1 towards 3, as its
# settings of ImageNet, Pets and UCF101 have it. Those of other sets go up to 50 each.
BETAS = tuple(0.1 + step * (7 - 0.1) / 200 for step in range(200))
ALPHAS = tuple(0.1 + step * (3 - 0.1) / 20 for step in range(20))


@METHODS.add("tip_adapter")
@dataclass(frozen=True)
class TipAdapter(OfPair):
    """logits = scale cos(f, w) + alpha exp(-beta (1 - f~ F^T)) L (equations 3 to 5). Nothing trains.

    F [N, E]: of each of the N training images the mean over `views` of its features, made by the cell's augmentation
    (`train.augment=none`: the image as it is; the release cuts half of it or more, `rrc_flip` less), then of length 1.
    L [N, C]: their classes. With `search`, alpha and beta are those of the release's grid for ImageNet that classify
    the validation draw best: 4,000 pairs on at most four images a class.
    """

    family: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2207.09519"
    identity_at_init: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    trains_nothing: ClassVar[bool] = True

    alpha: float = option(1.17, ge=0)
    beta: float = option(1.0, ge=0)
    views: int = option(10, ge=1)
    search: bool = option(False)

    @property
    def bound_to_classes(self) -> bool:
        return True

    def observe(self, evidence: Evidence) -> Findings:
        pair, _ = pair_of(self.name, evidence.backbone)
        keys, labels = cache(pair, evidence, self.views)
        found = {"keys": keys, "labels": labels}
        if self.search:
            features, wanted = features_of(pair, evidence.held_out(BATCH))
            match = CacheMatch(pair.match, keys, labels, 0.0, 1.0, len(pair.class_names))
            found |= searched(pair, match, features, wanted)
        return found

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        pair, _ = pair_of(self.name, backbone)
        own = {"alpha": self.alpha, "beta": self.beta}
        alpha, beta = (float(findings.get(name, value)) for name, value in own.items())
        keys, labels = findings["keys"].to(pair.device), findings["labels"].to(pair.device)
        pair.match = CacheMatch(pair.match, self.kept(keys), labels, alpha, beta, len(pair.class_names))

    def kept(self, keys: Tensor) -> Tensor:
        """The keys as the cache holds them: frozen, or to be trained."""
        return keys

    def expected_params(self, shape: BackboneShape) -> int | None:
        pair_shape(self.name, shape)
        return 0

    def summary(self, findings: Findings) -> dict[str, Any]:
        chosen = {name: float(findings[name]) for name in ("alpha", "beta") if name in findings}
        return {"num_keys": len(findings["keys"])} | chosen


@METHODS.add("tip_adapter_f")
@dataclass(frozen=True)
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys F [N, E] are trained from where the shots put them (section 3.3); N E parameters.

    The released code keeps the epoch that is best on the test set and searches alpha and beta behind training; here the
    last epoch stands, with alpha and beta as they were in training.
    """

    trains_nothing: ClassVar[bool] = False
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The last epoch in place of the one best on the test set; alpha and beta are not searched after training."
    )

    def kept(self, keys: Tensor) -> Tensor:
        return nn.Parameter(keys.clone())

    def expected_params(self, shape: BackboneShape) -> int | None:
        return None

    def expected_with(self, shape: BackboneShape, findings: Findings) -> int:
        return findings["keys"].numel()


class CacheMatch(nn.Module):
    """Features [batch, joint] and classes [classes, joint] -> logits of `match` and of the cache.

    keys: [images, joint], of length 1 at the start and not normalised again; labels: int64 [images].
    """

    keys: Tensor
    values: Tensor

    def __init__(
        self, match: nn.Module, keys: Tensor, labels: Tensor, alpha: float, beta: float, num_classes: int
    ) -> None:
        super().__init__()
        self.match = match
        if isinstance(keys, nn.Parameter):
            self.keys = keys
        else:
            self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("values", F.one_hot(labels, num_classes).to(keys.dtype), persistent=False)
        self.alpha, self.beta = alpha, beta

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        # no call of its own, whose results would be kept: their last bits follow the size of the batch
        logits: Tensor = self.match.forward(features, classes)
        return logits + self.alpha * self.cached(self.affinities(features), self.beta)

    def affinities(self, features: Tensor) -> Tensor:
        """Cosine of each feature with each key: [batch, images]."""
        return F.normalize(features, dim=-1) @ self.keys.T

    def cached(self, affinities: Tensor, beta: float) -> Tensor:
        """What the cache adds, ahead of alpha: [batch, classes]."""
        return torch.exp(-beta * (1 - affinities)) @ self.values


def cache(pair: Pair, evidence: Evidence, views: int) -> tuple[Tensor, Tensor]:
    """Keys [images, joint] of length 1 and labels int64 [images] of the training images, in their order."""
    passes = [features_of(pair, batches) for batches in evidence.augmented(BATCH, views)]
    mean = torch.stack([features for features, _ in passes]).mean(dim=0)
    return F.normalize(mean, dim=-1), passes[0][1]


def searched(pair: Pair, match: CacheMatch, features: Tensor, labels: Tensor) -> Findings:
    """The first pair of the grid, beta by beta, that classifies most of the features rightly."""
    with torch.no_grad():
        plain, affinities = match.match(features, pair.class_features(features)), match.affinities(features)
        best, chosen = -1, (ALPHAS[0], BETAS[0])
        for beta in BETAS:
            added = match.cached(affinities, beta)
            for alpha in ALPHAS:
                hits = int(((plain + alpha * added).argmax(dim=1) == labels).sum())
                if hits > best:
                    best, chosen = hits, (alpha, beta)
    return {"alpha": torch.tensor(chosen[0], dtype=torch.float64), "beta": torch.tensor(chosen[1], dtype=torch.float64)}
