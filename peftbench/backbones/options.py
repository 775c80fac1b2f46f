"""Options of a backbone: which timm model, which weights, which input size. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from peftbench.backbones.text_options import TEXTS
from peftbench.foundation.spec import Spec, option

FRAME_READOUTS = ("method", "norm_then_mean", "mean_then_norm")
WEIGHTS = ("embedded", "timm", "checkpoint", "none")


@dataclass(frozen=True)
class BackboneSpec(Spec):
    """One pretrained backbone.

    `weights`: `embedded` (the file shipped in the package), `timm` (downloaded by timm from its hub),
    `checkpoint` (the file named by `checkpoint`: .safetensors or the .index.json of its shards, .npz in timm's JAX
    layout, or .pth holding tensors and plain values), `none` (random, for tests). Naming a `checkpoint` is enough: it
    wins over `weights`. `ema`: of a file with raw weights and a moving average of them (EMA, or the teacher of
    self-distillation) the average is taken, as timm does; false takes the raw ones.
    `frame_readout` says how features of a clip's frames become one: averaged behind the final norm or ahead of it;
    `method` leaves it to the method, which is behind the norm for all that do not say otherwise.
    `text` names the text tower of a pair, whose weights are in the same file; without it only images are read.
    `vocabulary` is the file of its tokenizer: a tokenizer.json, or CLIP's bpe_simple_vocab_16e6.txt.gz; without it the
    tokenizer.json beside the checkpoint is read.
    `writer` is the folder of a T5 as transformers writes it (config.json, model.safetensors, tokenizer.json): a text
    tower that reads the image's tokens and writes answers (`task=vqa_written`).
    `download` says, in the message for machines without a network, where the weights can be had.
    """

    section: ClassVar[str] = "backbone"

    title: str = option("vit_micro")
    model: str = option("vit_micro_patch4_32")
    weights: str = option("embedded", choices=WEIGHTS)
    checkpoint: str | None = option(None, location=True)
    ema: bool = option(True, later=True)
    img_size: int | None = option(None, ge=4)
    download: str = option("", location=True)
    frame_readout: str = option("method", choices=FRAME_READOUTS, later=True)
    text: str = option("", choices=("", *TEXTS), later=True)
    vocabulary: str | None = option(None, location=True)
    writer: str | None = option(None, location=True)

    def problems(self) -> Sequence[str]:
        if not self.model:
            return ["backbone.model must name a timm model, for example backbone.model=vit_tiny_patch16_224"]
        if self.weights == "checkpoint" and not self.checkpoint:
            return [
                f"backbone.checkpoint must name a file for {self.title}"
                + (f"; {self.download}" if self.download else "")
            ]
        if self.text and self.writer:
            return [f"backbone.writer brings a text tower and {self.title} has one; take the backbone of images alone"]
        return ()

    @property
    def source(self) -> str:
        """Where the weights come from, once a named checkpoint has won."""
        return "checkpoint" if self.checkpoint else self.weights
