"""A linear probe as CLIP's authors fit it (Radford et al., arXiv:2103.00020, appendix A.3): logistic regression."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.of_pair import OfPair
from peftbench.methods.pair_features import BATCH, features_of, pair_of, pair_shape

# CoOp's search (KaiyangZhou/CoOp, lpclip): a coarse grid, then steps that halve the span around its best
COARSE = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
HALVINGS = 8
# logits
_FAR = 30.0


@METHODS.add("clip_linear_probe")
@dataclass(frozen=True)
class CLIPLinearProbe(OfPair):
    """logits = W f + b, fitted by L-BFGS on the features of the training images, not normalised; C (E + 1) parameters.

    The loss is the sum of cross-entropies plus |W|^2 / (2 strength). `strength` null is searched on the validation draw
    as CoOp does. The texts of the classes play no part, and no step of the loop is taken.
    """

    family: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2103.00020"
    identity_at_init: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    trains_nothing: ClassVar[bool] = True

    strength: float | None = option(None, gt=0)

    @property
    def bound_to_classes(self) -> bool:
        return True

    def observe(self, evidence: Evidence) -> Findings:
        pair, _ = pair_of(self.name, evidence.backbone)
        features, labels = (part.cpu().numpy() for part in features_of(pair, evidence.images(BATCH)))
        strength = self.strength
        if strength is None:
            held_out, wanted = (part.cpu().numpy() for part in features_of(pair, evidence.held_out(BATCH)))

            def accuracy(value: float) -> float:
                fitted = _fitted(features, labels, value)
                return float((fitted.predict(held_out) == wanted).mean())

            strength = searched(accuracy)
        weight, bias = weights(_fitted(features, labels, strength), len(pair.class_names), features.dtype)
        return {"weight": weight, "bias": bias, "strength": torch.tensor(strength, dtype=torch.float64)}

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        pair, _ = pair_of(self.name, backbone)
        weight, bias = (findings[name].to(pair.device) for name in ("weight", "bias"))
        pair.match = LinearMatch(pair.match, weight, bias)

    def expected_params(self, shape: BackboneShape) -> int:
        pair = pair_shape(self.name, shape)
        return pair.num_classes * (pair.joint + 1)

    def summary(self, findings: Findings) -> dict[str, Any]:
        return {"strength": float(findings["strength"])}


class LinearMatch(nn.Module):
    """Features [batch, joint] -> logits [batch, classes] by a matrix of its own; class features are left aside."""

    def __init__(self, match: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.replaced = match
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight, self.bias)


def searched(accuracy: Callable[[float], float]) -> float:
    """The strength that CoOp's search ends with: the best of `COARSE`, then the better end of a span that halves."""
    best = max(COARSE, key=accuracy)  # the first of equals
    left, right = math.log10(best) - 1, math.log10(best) + 1
    chosen = best
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        if accuracy(10**left) < accuracy(10**right):
            chosen, left = 10**right, middle
        else:
            chosen, right = 10**left, middle
    return chosen


def _fitted(features: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # weak regularisation of few images ends at its 1,000 iterations, as in the source
        warnings.simplefilter("ignore", ConvergenceWarning)
        # which one image a class looks like
        warnings.filterwarnings("ignore", "The number of unique classes is greater", UserWarning)
        return LogisticRegression(C=strength, solver="lbfgs", max_iter=1000).fit(features, labels)


def weights(fitted: Any, num_classes: int, dtype: Any = np.float32) -> tuple[Tensor, Tensor]:
    """Weight [classes, joint] and bias [classes] of a fitted regression; a class without images stands far behind.

    In `dtype`, the precision of the features. Of two classes scikit-learn fits the second against the first.
    """
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:
        coefficients, intercepts = (np.concatenate([0 * part, part]) for part in (coefficients, intercepts))
    weight = np.zeros((num_classes, coefficients.shape[1]), dtype)
    bias = np.full(num_classes, intercepts.min() - _FAR, dtype)
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    return torch.from_numpy(weight), torch.from_numpy(bias)
