"""GLoRA (Chavan et al., arXiv:2306.07967): scale and shift of weights, biases and inputs, each of a chosen form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape
from peftbench.foundation.spec import option
from peftbench.interventions import Rewritten
from peftbench.methods.base import METHODS
from peftbench.methods.targets import FUSED_TARGETS, Matrix, Rewriting, lost_offsets, offsets_without_effect

MATRIX_FORMS = ("lora", "vector", "constant", "none")
PROMPT_FORMS = ("lora", "vector", "none")
VECTOR_FORMS = ("vector", "constant", "none")


class Support(nn.Module):
    """One of the supports: `lora` U V [rows, columns] with U zero and V xavier-uniform, `vector` [rows, 1], `constant`.

    Vectors and constants start at zero.
    """

    def __init__(self, form: str, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        sizes = {"lora": (rows, rank), "vector": (rows, 1), "constant": (1, 1)}
        self.up = nn.Parameter(torch.zeros(sizes[form]))
        self.down = nn.Parameter(torch.empty(rank, columns)) if form == "lora" else None
        if self.down is not None:
            nn.init.xavier_uniform_(self.down)

    def forward(self) -> Tensor:
        return self.up if self.down is None else self.up @ self.down


class Supports(nn.Module):
    """W -> W + W * A + B, b -> b + b * D + E + W C, each support of its form or absent."""

    def __init__(self, matrix: Matrix, forms: dict[str, str], rank: int) -> None:
        super().__init__()
        sizes = {
            "a": (matrix.out_dim, matrix.in_dim),
            "b": (matrix.out_dim, matrix.in_dim),
            "c": (matrix.in_dim, 1),
            "d": (matrix.out_dim, 1),
            "e": (matrix.out_dim, 1),
        }
        present = {name: form for name, form in forms.items() if form != "none" and (name != "d" or matrix.has_bias)}
        self.supports = nn.ModuleDict({name: Support(form, *sizes[name], rank) for name, form in present.items()})

    def forward(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        now = {name: support() for name, support in self.supports.items()}
        new, shift = weight, weight.new_zeros(len(weight)) if bias is None else bias
        if "a" in now:
            new = new + weight * now["a"]
        if "b" in now:
            new = new + now["b"]
        if "c" in now:
            shift = shift + (weight @ now["c"]).squeeze(1)
        if "d" in now and bias is not None:
            shift = shift + bias * now["d"].squeeze(1)
        if "e" in now:
            shift = shift + now["e"].squeeze(1)
        return new, shift


@METHODS.add("glora")
@dataclass(frozen=True)
class GLoRA(Rewriting):
    """W' = W + W * A + B, b' = b + b * D + E + W C with supports of fixed forms.

    `scale` A and `shift` B are `lora` of `rank`, a `vector` of one number for each output, one number (`constant`) or
    absent; `prompt` C is `lora`, `vector` or absent; `bias_scale` D and `bias_shift` E a vector, a constant or absent.
    By default all have their largest form, so that as many parameters train as in the paper's super-network. Starts at
    zero: the function is unchanged. Folds exactly.
    """

    paper: ClassVar[str] = "arXiv:2306.07967"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = (
        "The forms are options, the same in all layers, where the paper trains a super-network of them and searches."
    )
    size_option: ClassVar[str] = "rank"

    rank: int = option(4, ge=1)
    scale: str = option("lora", choices=MATRIX_FORMS)
    shift: str = option("lora", choices=MATRIX_FORMS)
    prompt: str = option("lora", choices=PROMPT_FORMS)
    bias_scale: str = option("vector", choices=VECTOR_FORMS)
    bias_shift: str = option("vector", choices=VECTOR_FORMS)
    targets: list[str] = option(list(FUSED_TARGETS), choices=FUSED_TARGETS)

    @property
    def forms(self) -> dict[str, str]:
        names = ("scale", "shift", "prompt", "bias_scale", "bias_shift")
        return {letter: getattr(self, name) for letter, name in zip("abcde", names, strict=True)}

    def problems(self) -> Sequence[str]:
        nothing = all(form == "none" for form in self.forms.values())
        return [*super().problems(), *(["glora has no support left: give one of them a form"] if nothing else [])]

    def module(self, matrix: Matrix, common: Any) -> nn.Module:
        return Supports(matrix, self.forms, self.rank)

    def expected_params(self, shape: BackboneShape) -> int:
        total = 0
        for site in shape.at(*self.roles):
            rows = {"a": site.out_dim, "b": site.out_dim, "c": site.in_dim, "d": site.out_dim, "e": site.out_dim}
            columns = {"a": site.in_dim, "b": site.in_dim, "c": 1}
            for name, form in self.forms.items():
                if form == "none" or (name == "d" and not site.has_bias):
                    continue
                sizes = {"vector": rows[name], "constant": 1}
                total += sizes[form] if form in sizes else self.rank * (rows[name] + columns[name])
        return total

    def inert(self, backbone: Backbone) -> dict[str, Tensor | slice]:
        """What scales or shifts the keys' bias, what scales a bias that is zero, and one number for all channels of the
        stream, which the norms that read it subtract: a constant shift of proj's or fc2's bias, or of their weights,
        whose offset differs from token to token."""
        names = {id(tensor): name for name, tensor in backbone.trainable}
        found: dict[str, Tensor | slice] = {}
        for letter, form in (("b", self.shift), ("e", self.bias_shift)):
            for site in lost_offsets(backbone, of_token=letter == "b") if form == "constant" else []:
                if isinstance(site.module, Rewritten):
                    found[names[id(site.module.changes["0"].supports[letter].up)]] = slice(None)  # type: ignore
        of_keys = offsets_without_effect(
            backbone,
            lambda change: [(change.supports[name].up, name == "d") for name in ("d", "e") if name in change.supports],
        )
        return found | of_keys
