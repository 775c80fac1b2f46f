"""DA-VPT (Ren et al., CVPR 2025, arXiv:2505.23694): prompts that stand for groups of classes alike."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, unfreeze
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import BehindSlices, InsertTokens, share
from peftbench.interventions.guided import Guidance, GuidedTokens, grouped
from peftbench.methods.base import METHODS, Method
from peftbench.methods.inert import norms_keys
from peftbench.methods.observation import Evidence, Findings
from peftbench.methods.vpt import token_sequence

_AT_ONCE = 32
# what may train beside the prompts: role of its sites and their tensors, or the third of the fused qkv
TENSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "norm1": ("norm.1", ("weight", "bias")),
    "norm2_bias": ("norm.2", ("bias",)),
    "proj_bias": ("attn.proj", ("bias",)),
    "fc2_bias": ("mlp.fc2", ("bias",)),
}
THIRDS = {"q_bias": 0, "k_bias": 1, "v_bias": 2}
BESIDE = ("class_token", *TENSORS, *THIRDS)


class Offset(nn.Module):
    """Adds a trained vector to what it stands behind; zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.offset.to(x.dtype)


@METHODS.add("da_vpt")
@dataclass(frozen=True)
class DAVPT(Method):
    """VPT-deep whose last `guided_depth` blocks have prompts that stand for classes, and what trains `beside` them.

    Classes are grouped by their mean features, k-means under the cosine, one group for each of `num_guided` prompts; of
    no more classes than that each has its own. The objective `da_vpt` draws what is of a class to its prompt and groups
    the classes anew. Prompts are xavier-uniform as one tensor of all guided blocks and one of all others, divided by 8.
    Biases of the fused qkv train as offsets. `beside` is what most released settings of VTAB-1k have: of 46, all train
    the biases of v, proj, norm2 and fc2, 45 the class token and 34 the first norm; 19 have k_bias as well, which with
    v_bias is the paper's DA-VPT+. There the bias of the patch embedding trains with proj's, for its name; not here.
    """

    version: ClassVar[int] = 2

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2505.23694"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "Batches are drawn image by image, where the release draws pairs of a class, and classes are first grouped by "
        "all their training images as they are, where it augments ten of each."
    )
    identity_at_init: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(20, ge=1)
    num_guided: int = option(10, ge=2)
    guided_depth: int = option(1, ge=1)
    beside: list[str] = option(
        ["class_token", "norm1", "norm2_bias", "proj_bias", "fc2_bias", "v_bias"], choices=BESIDE
    )
    dropout: float = option(0.0, ge=0, lt=1)

    def observe(self, evidence: Evidence) -> Findings:
        """`groups` [classes]: the prompt of each class; `centroids` [prompts, width]."""
        token_sequence(self.name, evidence.backbone)
        backbone = copy.deepcopy(evidence.backbone).eval()
        number, width = evidence.num_classes, backbone.feature_dim
        sums, counts = torch.zeros(number, width), torch.zeros(number)
        for batch in evidence.images(_AT_ONCE):
            with torch.no_grad():
                features = backbone(*(batch[name] for name in backbone.inputs)).float().cpu()
            labels = batch["label"].cpu()
            sums.index_add_(0, labels, features)
            counts.index_add_(0, labels, torch.ones(len(labels)))
        prompts = min(self.num_guided, number)
        if prompts == number:
            return {"groups": torch.arange(number), "centroids": torch.zeros(number, width)}
        if int((counts > 0).sum()) < prompts:
            raise NotApplicable(f"method.num_guided = {prompts} is more than the classes of the training images")
        centroids, groups = grouped(sums / counts.clamp(min=1)[:, None], prompts)
        return {"groups": groups, "centroids": centroids}

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        shape, blocks = backbone.shape, token_sequence(self.name, backbone)
        if not shape.num_prefix_tokens or not hasattr(backbone.net, "cls_token"):
            raise NotApplicable(f"{self.name} draws a class token to its prompts; this network has none")
        self._train_beside(backbone)
        guided = min(self.guided_depth, len(blocks))
        plain = _starts(len(blocks) - guided, self.num_tokens, shape.width)
        for site, start in zip(blocks[: len(blocks) - guided], plain, strict=True):
            sizes = shape.width, shape.patch_size, shape.num_prefix_tokens
            inserting = InsertTokens(site.module, self.num_tokens, *sizes, self.dropout, strip=True, start=start)
            site.wrap(lambda _, made=inserting: made)  # type: ignore[misc]
        of_classes = _starts(guided, len(findings["centroids"]), shape.width)
        for number, (site, start) in enumerate(zip(blocks[len(blocks) - guided :], of_classes, strict=True)):
            watching = GuidedTokens(site.module, shape, start, self.dropout, number == guided - 1)
            site.wrap(lambda _, made=watching: made)  # type: ignore[misc]
        share(backbone, "guidance", Guidance(findings["groups"], findings["centroids"]))

    def _train_beside(self, backbone: Backbone) -> None:
        if "class_token" in self.beside:
            unfreeze(backbone.net.cls_token)  # type: ignore[arg-type]
        for name in self.beside:
            role, tensors = TENSORS.get(name, ("", ()))
            for site in backbone.sites(role) if role else []:
                unfreeze(*(site.module.get_parameter(t) for t in tensors if t == "weight" or site.shape.has_bias))
        thirds = [THIRDS[name] for name in self.beside if name in THIRDS]
        for site in backbone.sites("attn.qkv") if thirds else []:
            width = site.shape.out_dim // 3
            site.wrap(lambda qkv, width=width: BehindSlices(qkv, {t: Offset(width) for t in thirds}, 3))  # type: ignore[misc]

    def expected_params(self, shape: BackboneShape) -> None:
        """It depends on the number of classes where that is below `num_guided`."""

    def expected_with(self, shape: BackboneShape, findings: Findings) -> int:
        guided = min(self.guided_depth, shape.depth)
        prompts = (shape.depth - guided) * self.num_tokens + guided * len(findings["centroids"])
        total = prompts * shape.width + ("class_token" in self.beside) * shape.width
        for name in self.beside:
            role, tensors = TENSORS.get(name, ("", ()))
            for site in shape.at(role) if role else []:
                total += sum(site.out_dim for tensor in tensors if tensor == "weight" or site.has_bias)
        thirds = sum(name in THIRDS for name in self.beside)
        return total + thirds * sum(site.out_dim // 3 for site in shape.at("attn.qkv"))

    def inert(self, backbone: Backbone) -> dict[str, slice]:
        """What shifts all keys equally; a norm on the keys or a rotation makes it felt."""
        if backbone.turns_keys:
            return {}
        shifting = [
            id(site.module.behind["1"].offset)  # type: ignore[union-attr, index]
            for site in backbone.sites("attn.qkv")
            if "k_bias" in self.beside and not norms_keys(site.parent)
        ]
        return {name: slice(None) for name, tensor in backbone.trainable if id(tensor) in shifting}

    def summary(self, findings: Findings) -> dict[str, Any]:
        return {
            "classes_of_each_prompt": torch.bincount(findings["groups"], minlength=len(findings["centroids"])).tolist()
        }


def _starts(blocks: int, number: int, width: int) -> Iterator[Tensor]:
    """Prompts [number, width] of each block: xavier-uniform as a tensor [blocks, number, width], divided by 8."""
    bound = math.sqrt(6 / ((number + blocks) * width)) / 8
    yield from torch.empty(blocks, number, width).uniform_(-bound, bound)
