"""SPT (He et al., ICCV 2023, arXiv:2303.08566): modules for what is most sensitive to the task, single entries else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site, SiteShape, class_token_of, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import BehindSlices, Beside, Bottleneck, LinearDelta, LowRank, SparseDelta, Thinned
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import norms_keys
from peftbench.methods.observation import Evidence, Findings

MATRICES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
VECTORS = ("norm.pre", "norm.1", "norm.2", "norm.merge", "norm.final")
# the number of sensitive entries grows in twentieths of the budget: 79 steps of 20,000 for 400,000
STEPS_PER_BUDGET, NUM_STEPS = 20, 79
# 400,000 of the parameters of ViT-B/16 without a head
BUDGET = 400_000 / 85_798_656


@dataclass(frozen=True)
class Piece:
    """Part of a tensor that is decided on as a whole: a matrix (q, k and v apart) or a vector.

    It holds `size` entries of the flattened `tensor` of a site, from `start` on, and is slice `part` of the site's
    output. With `threshold` sensitive entries or more it trains as a whole, at the price of `whole_size` parameters.
    """

    site: int
    tensor: str
    part: int
    is_matrix: bool
    start: int
    size: int
    whole_size: int
    threshold: float

    def cost(self, num_sensitive: int) -> int:
        return self.whole_size if num_sensitive >= self.threshold else num_sensitive


@dataclass(frozen=True)
class _SPT(Method):
    """What both share. The sensitivity of an entry w is the sum of (dL/dw)^2 over the first `num_batches` training
    batches, L the cross-entropy at the pretrained weights (section 3.1).

    The most sensitive entries of all blocks and norms are marked. A matrix with at least 1/alpha as many marks as its
    module has parameters gets the module; a vector with 1/beta of its entries marked trains whole; elsewhere the
    marked entries themselves train, W' = W + scatter(v) (section 3.2; the rule for vectors, alpha and beta as in the
    released code). As many are marked as bring the total closest to `budget`, a share of the backbone's parameters:
    by default 0.4M of ViT-B. The paper sweeps 0.2M to 1M and keeps the best on test. Embeddings stay frozen, the class
    token always trains. Single entries of norms train like those of other vectors; the released code counts them and
    leaves them as they are. It scores the first 512 images of VTAB's 800 before it trains on all 1,000, under the
    stochastic depth of training (0.1 in its scripts; here `train.drop_path`); here the cell's own training images are
    scored. For hierarchical backbones no code is released; they follow the same rule.
    """

    family: ClassVar[str] = "selection"
    paper: ClassVar[str] = "arXiv:2303.08566"
    observes: ClassVar[bool] = True
    version: ClassVar[int] = 2

    budget: float = option(BUDGET, gt=0, lt=1)
    rank: int = option(8, ge=1)
    alpha: float = option(10.0, gt=0)
    beta: float = option(5.0, gt=0)
    dropout: float = option(0.1, ge=0, lt=1)
    drop_path: float = option(0.1, ge=0, lt=1)
    num_batches: int = option(16, ge=1)
    batch_size: int = option(32, ge=1)

    def module_size(self, in_dim: int, out_dim: int) -> int:
        """Parameters of the module for a matrix [out_dim, in_dim]."""
        raise NotImplementedError

    def add_modules(self, site: Site, parts: Sequence[int], width: int) -> None:
        """Give modules to slices of the output of a linear map, each `width` wide."""
        raise NotImplementedError

    def dropout_at(self, site: Site) -> float:
        """Dropout on what a module reads; as in the released code, none at attention's output projection."""
        return 0.0 if site.shape.role == "attn.proj" else self.dropout

    def observe(self, evidence: Evidence) -> Findings:
        """`<site>.weight` and `<site>.bias`: ascending places in the flattened tensor; `<site>.modules`: slices of its
        output that get one; `class_token`: entries it has."""
        backbone = copy.deepcopy(evidence.backbone)
        _require_linear(backbone)
        pieces, shape = self._pieces(backbone.shape), backbone.shape
        tensors = {(piece.site, piece.tensor): _tensor(backbone, piece) for piece in pieces}
        sensitivity = self._sensitivity(evidence, backbone, list(tensors.values()))
        budget = self.budget * shape.num_parameters
        steps = [round(step / STEPS_PER_BUDGET * budget) for step in range(1, NUM_STEPS + 1)]
        steps = [min(max(num, 1), len(sensitivity)) for num in steps]
        most = steps[-1]
        marked = sensitivity.topk(most).indices.cpu()
        ends = torch.tensor([piece.size for piece in pieces]).cumsum(0)
        owners = torch.bucketize(marked, ends, right=True)

        token_size = sum(token.numel() for token in class_token_of(backbone))
        counts = {num: torch.bincount(owners[:num], minlength=len(pieces)).tolist() for num in steps}
        totals = {num: sum(map(Piece.cost, pieces, counts[num])) + token_size for num in steps}
        # of equally good ones the larger, as in the released code
        chosen = min(reversed(steps), key=lambda num: abs(totals[num] - budget))
        found: dict[str, list[Tensor]] = {}
        for index, piece in enumerate(pieces):
            name, places = f"{piece.site}.{piece.tensor}", marked[:chosen][owners[:chosen] == index]
            if counts[chosen][index] < piece.threshold:
                entries = places.sort().values - (int(ends[index]) - piece.size)
            elif piece.is_matrix:
                name, entries = f"{piece.site}.modules", torch.tensor([piece.part])
            else:
                entries = torch.arange(piece.size)
            if len(entries):
                found.setdefault(name, []).append(entries if name.endswith("modules") else entries + piece.start)
        return {name: torch.cat(parts) for name, parts in found.items()} | {"class_token": torch.tensor(token_size)}

    def _pieces(self, shape: BackboneShape) -> list[Piece]:
        """All pieces, the weight of a site ahead of its bias."""
        pieces = []
        for number, site in enumerate(shape.sites):
            parts, width = _parts(site)
            if site.role in MATRICES:
                size, cost = width * site.in_dim, self.module_size(site.in_dim, width)
                pieces += [
                    Piece(number, "weight", part, True, part * size, size, cost, cost / self.alpha) for part in parts
                ]
            tensors = ["weight"] * (site.role in VECTORS) + ["bias"] * site.has_bias
            for tensor in tensors if site.role in (*MATRICES, *VECTORS) else []:
                pieces += [
                    Piece(number, tensor, part, False, part * width, width, width, width / self.beta) for part in parts
                ]
        return pieces

    def _sensitivity(self, evidence: Evidence, backbone: Backbone, tensors: list[nn.Parameter]) -> Tensor:
        """Summed squared gradients of all tensors, flattened one behind the other."""
        model = evidence.classifier(backbone).train()
        unfreeze(*tensors)
        first = tensors[0]
        total = torch.zeros(sum(tensor.numel() for tensor in tensors), dtype=first.dtype, device=first.device)
        for batch in islice(evidence.images(self.batch_size), self.num_batches):
            gradients = torch.autograd.grad(evidence.loss(model, batch), tensors)
            total += torch.cat([gradient.flatten() for gradient in gradients]).square()
        return total

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        _require_linear(backbone)
        for number, site in enumerate(backbone.all_sites):
            entries = {
                name: findings[f"{number}.{name}"] for name in ("weight", "bias") if f"{number}.{name}" in findings
            }
            if entries:
                site.wrap(partial(SparseDelta, entries=entries))
            if f"{number}.modules" in findings:
                self.add_modules(site, findings[f"{number}.modules"].tolist(), _parts(site.shape)[1])
        unfreeze(*class_token_of(backbone))

    def expected_params(self, shape: BackboneShape) -> None:
        """It depends on the findings; close to the budget times the backbone's parameters."""

    def expected_with(self, shape: BackboneShape, findings: Findings) -> int:
        total = int(findings["class_token"])
        for name, tensor in findings.items():
            site, _, kind = name.partition(".")
            if kind == "modules":
                at = shape.sites[int(site)]
                total += len(tensor) * self.module_size(at.in_dim, _parts(at)[1])
            elif kind:
                total += len(tensor)
        return total

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """What shifts all keys, and so all scores of a query, equally, which softmax cancels.

        That are entries of a key bias or, where an adapter reads the keys, its last offset. Keys that rotary embeddings
        turn keep no common offset.
        """
        if backbone.turns_keys:
            return {}
        names = {id(parameter): name for name, parameter in backbone.trainable}
        found = {}
        for site in backbone.all_sites:
            if site.shape.role != "attn.qkv" or norms_keys(site.parent):
                continue
            if adapter := _behind_keys(site.module):
                found[names[id(adapter.up.bias)]] = slice(None)
                continue
            sparse: Any = site.module
            while not isinstance(sparse, SparseDelta) and hasattr(sparse, "base"):
                sparse = sparse.base
            if not hasattr(sparse, "bias_places"):
                continue
            width = site.shape.out_dim // 3
            first, last = torch.searchsorted(sparse.bias_places, torch.tensor([width, 2 * width])).tolist()
            if first < last:
                found[names[id(sparse.bias_values)]] = slice(first, last)
        return found

    def summary(self, findings: Findings) -> dict[str, Any]:
        kinds = {
            kind: [t for name, t in findings.items() if name.endswith(kind)] for kind in ("modules", "weight", "bias")
        }
        return {
            "modules": sum(map(len, kinds["modules"])),
            "single_entries": sum(map(len, [*kinds["weight"], *kinds["bias"]])),
        }


def _parts(site: SiteShape) -> tuple[range, int]:
    """The slices of a site's output that are decided on apart, and the width of each."""
    num_parts = 3 if site.role == "attn.qkv" else 1
    return range(num_parts), site.out_dim // num_parts


def _tensor(backbone: Backbone, piece: Piece) -> nn.Parameter:
    return backbone.all_sites[piece.site].module.get_parameter(piece.tensor)


def _behind_keys(qkv: nn.Module) -> Bottleneck | None:
    """The adapter that reads the keys of a wrapped qkv, if there is one."""
    for module in qkv.modules():
        if isinstance(module, BehindSlices) and "1" in module.behind:
            return next(part for part in module.behind["1"].modules() if isinstance(part, Bottleneck))
    return None


def _require_linear(backbone: Backbone) -> None:
    for site in backbone.all_sites:
        if site.shape.role in MATRICES and not isinstance(site.module, nn.Linear):
            raise NotApplicable(
                f"SPT decides on matrices, the {site.shape.role} here is a {type(site.module).__name__}"
            )


def _require_square(shape: SiteShape) -> None:
    if shape.in_dim != shape.out_dim:
        raise NotApplicable(
            f"method.proj_reads=input needs as many channels ahead of {shape.role} as behind it, here are "
            f"{shape.in_dim} and {shape.out_dim}"
        )


@METHODS.add("spt_lora")
@dataclass(frozen=True)
class SPTLoRA(_SPT):
    """Sensitivity decides: LoRA for the most sensitive matrices, single entries of W elsewhere, within a budget.

    W' = W + B A with A [rank, in], B [out, rank]: rank (in + out) parameters, no further factor, stochastic depth of
    its own in training. The input is dropped with one mask for q, k and v. Folds exactly. In the released code a later
    initialisation draws A and B anew, from a truncated normal of 0.02, so that the start changes the function; here B
    starts at zero.
    """

    mergeable: ClassVar[bool] = True

    def module_size(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim)

    def add_modules(self, site: Site, parts: Sequence[int], width: int) -> None:
        deltas = {part: Thinned(LowRank(site.shape.in_dim, width, self.rank), self.drop_path) for part in parts}
        dropout = self.dropout_at(site)
        site.wrap(partial(LinearDelta, deltas=deltas, num_slices=len(_parts(site.shape)[0]), dropout=dropout))


@METHODS.add("spt_adapter")
@dataclass(frozen=True)
class SPTAdapter(_SPT):
    """Sensitivity decides: an adapter behind the most sensitive matrices, single entries of W elsewhere, in a budget.

    y + up(gelu(down(dropout(y)))) on the matrix' output y: 2 rank out + rank + out parameters, stochastic depth of its
    own. In the released code the one at attention's output projection reads that layer's input (`proj_reads: input`),
    down and up start at a truncated normal of 0.02, because a later initialisation draws them anew, and the entries
    that train were chosen for LoRA.
    """

    proj_reads: str = option("output", choices=("output", "input"), later=True)

    def module_size(self, in_dim: int, out_dim: int) -> int:
        return 2 * self.rank * out_dim + self.rank + out_dim

    def add_modules(self, site: Site, parts: Sequence[int], width: int) -> None:
        modules = {}
        for part in parts:
            adapter = nn.Sequential(nn.Dropout(self.dropout_at(site)), Bottleneck(width, self.rank))
            modules[part] = Thinned(adapter, self.drop_path)
        if site.shape.role == "attn.proj" and self.proj_reads == "input":
            _require_square(site.shape)
            site.wrap(partial(Beside, module=modules[0]))
            return
        site.wrap(partial(BehindSlices, modules=modules, num_slices=len(_parts(site.shape)[0])))
