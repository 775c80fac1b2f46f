"""Where LoRA's factors start when training images say so: EVA, CorDA and LoRA-GA. All images are looked at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.targets import Matrix

BATCH_SIZE = 64
# most components of a matrix over its fair share (EVA, section 3, rho)
REDISTRIBUTION = 2.0
# of the diagonal's mean, at first and doubled while the inverse is off by more (CorDA, section 3.2)
DAMPING, INVERSE_ERROR = 0.01, 0.05
# of LoRA-GA's stable start
GAMMA = 16.0


@dataclass(frozen=True)
class Place:
    """A targeted matrix; `rows` are its own in the linear map it belongs to."""

    linear: nn.Linear
    rows: slice
    matrix: Matrix

    @property
    def weight(self) -> Tensor:
        return self.matrix.weight.detach().double()

    def fitted(self, factor: Tensor) -> Tensor:
        """A factor in the precision of the matrix, single at least."""
        return factor.to(torch.promote_types(self.linear.weight.dtype, torch.float32)).contiguous()


@contextmanager
def _inputs(places: Sequence[Place], note: Callable[[nn.Linear, Tensor], None]) -> Iterator[None]:
    """Show `note` what every linear map reads, [..., in_dim], in double precision."""

    def hook(linear: Any, arguments: tuple[Tensor, ...]) -> None:
        note(linear, arguments[0].detach().double())

    handles = [linear.register_forward_pre_hook(hook) for linear in dict.fromkeys(place.linear for place in places)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def eva(evidence: Evidence, backbone: Backbone, places: Sequence[Place], rank: int, scale: float) -> Findings:
    """`<place>.down` [own rank, in_dim]: principal directions of a matrix's inputs, B at zero (EVA, arXiv:2410.07170).

    The components of all matrices that explain most of their inputs' variance share the ranks: `rank` on average, at
    most twice that for one, none for some. Of the largest entry of a direction the sign is positive.
    """
    counts = dict.fromkeys((place.linear for place in places), 0)
    sums = {linear: (torch.zeros(()), torch.zeros(())) for linear in counts}

    def note(linear: nn.Linear, x: Tensor) -> None:
        x = x.flatten(0, -2)
        total, square = sums[linear]
        counts[linear] += len(x)
        sums[linear] = total + x.sum(0), square + x.T @ x

    with _inputs(places, note), torch.no_grad():
        for batch in evidence.images(BATCH_SIZE):
            backbone(batch["image"])
    parts = {}
    for linear, (total, square) in sums.items():
        mean = total / counts[linear]
        variances, directions = torch.linalg.eigh(square / counts[linear] - torch.outer(mean, mean))
        directions = directions.flip(1).T
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        variances = variances.flip(0).clamp(min=0)
        parts[linear] = variances / variances.sum(), directions * largest.sign()
    most = [min(round(rank * REDISTRIBUTION), place.matrix.in_dim) for place in places]
    shares = [parts[place.linear][0][:number] for place, number in zip(places, most, strict=True)]
    owners = torch.cat([torch.full((len(share),), number) for number, share in enumerate(shares)])
    order = torch.cat(shares).sort(descending=True, stable=True).indices.cpu()
    ranks = torch.bincount(owners[order[: rank * len(places)]], minlength=len(places)).tolist()
    return {
        f"{place.matrix.name}.down": place.fitted(parts[place.linear][1][:own])
        for place, own in zip(places, ranks, strict=True)
    }


def corda(
    evidence: Evidence, backbone: Backbone, places: Sequence[Place], rank: int, scale: float, keep: bool = False
) -> Findings:
    """`<place>.down` and `.up` from W C = U S V^T, C the inputs' covariance (CorDA, arXiv:2406.05223).

    scale * up down = U_r S_r V_r^T C^-1 with the r largest singular values, or with the smallest to `keep` what the
    network knows. C is the mean over images of X^T X, X an image's inputs over their largest value, damped until its
    inverse is right.
    """
    sums = {place.linear: torch.zeros(()) for place in places}
    counts = dict.fromkeys(sums, 0)
    images = 0

    def note(linear: nn.Linear, x: Tensor) -> None:
        # windows and frames of an image count as one sample
        x = x.reshape(images, -1, x.shape[-1])
        x = x / x.amax(dim=(1, 2), keepdim=True).abs()
        sums[linear] = sums[linear] + x.flatten(0, 1).T @ x.flatten(0, 1)
        counts[linear] += images

    with _inputs(places, note), torch.no_grad():
        for batch in evidence.images(BATCH_SIZE):
            images = len(batch["image"])
            backbone(batch["image"])
    solved = {linear: _damped(total / counts[linear]) for linear, total in sums.items()}
    found = {}
    for place in places:
        covariance, inverse = solved[place.linear]
        u, s, vt = torch.linalg.svd(place.weight @ covariance, full_matrices=False)
        chosen = slice(-rank, None) if keep else slice(rank)
        root = (s[chosen] / scale).sqrt()
        found[f"{place.matrix.name}.down"] = place.fitted(root.unsqueeze(1) * (vt @ inverse)[chosen])
        found[f"{place.matrix.name}.up"] = place.fitted(u[:, chosen] * root)
    return found


def _damped(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance with enough on its diagonal to be inverted, and the inverse."""
    damping, identity = DAMPING, torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    while True:
        damped = covariance + damping * covariance.diagonal().mean() * identity
        inverse = torch.linalg.inv(damped)
        if torch.dist(damped @ inverse, identity) < INVERSE_ERROR:
            return damped, inverse
        damping *= 2


def lora_ga(evidence: Evidence, backbone: Backbone, places: Sequence[Place], rank: int, scale: float) -> Findings:
    """`<place>.down` and `.up` from singular vectors of the loss gradient of W (LoRA-GA, arXiv:2407.05000).

    A = c V_1..r^T, B = c U_r+1..2r with c = out_dim^(1/4) / gamma^(1/2), gamma = 16, the released "stable" start. The
    gradient is the mean over batches, under a fresh head. Raises `NotApplicable` where a matrix has no 2 r directions.
    """
    for place in places:
        if 2 * rank > min(place.weight.shape):
            raise NotApplicable(f"method.init=lora_ga needs 2 x {rank} singular vectors of {place.matrix.target}")
    model = evidence.classifier(backbone).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for place in places:
        place.linear.weight.requires_grad_(True)
    batches = 0
    for batch in evidence.images(BATCH_SIZE):
        evidence.loss(model, batch).backward()
        batches += 1
    found = {}
    for place in places:
        gradient = place.linear.weight.grad
        assert gradient is not None
        u, _, vt = torch.linalg.svd(gradient[place.rows].double() / batches, full_matrices=False)
        size = len(gradient[place.rows]) ** 0.25 / GAMMA**0.5
        found[f"{place.matrix.name}.down"] = place.fitted(size * vt[:rank])
        found[f"{place.matrix.name}.up"] = place.fitted(size * u[:, rank : 2 * rank])
    return found


def corda_kept(evidence: Evidence, backbone: Backbone, places: Sequence[Place], rank: int, scale: float) -> Findings:
    """`corda` in its mode that keeps what the network knows."""
    return corda(evidence, backbone, places, rank, scale, keep=True)


Start = Callable[[Evidence, Backbone, Sequence[Place], int, float], Findings]
STARTS: dict[str, Start] = {"eva": eva, "corda": corda, "corda_kept": corda_kept, "lora_ga": lora_ga}


def look(
    init: str, evidence: Evidence, places: Callable[[Backbone], Sequence[Place]], rank: int, scale: float
) -> Findings:
    """What `init` finds in the training images, on a copy of the backbone."""
    backbone = copy.deepcopy(evidence.backbone).eval()
    return STARTS[init](evidence, backbone, places(backbone), rank, scale)
