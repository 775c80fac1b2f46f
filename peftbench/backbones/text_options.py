"""Numbers of the text towers that pairs have. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextSpec:
    """`joint`: width of the space that both towers are projected to. `context`: positions of a text.

    `causal`: no token sees those behind it, and the feature is read at the end token; else at the last position.
    `tokenizer`: `bpe` (CLIP's byte-pair code), `words` (of the embedded pair), `file` (a tokenizer.json alone).
    `projects_images`, `projection_bias`, `logit_bias`: SigLIP has no projection of images, and a bias in that of texts
    and behind the scaled cosine. `start`, `end`, `pad`: ids around a text; `start` -1 where there is none.
    """

    width: int
    depth: int
    num_heads: int
    joint: int
    context: int = 77
    num_tokens: int = 49_408
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    causal: bool = True
    tokenizer: str = "bpe"
    projects_images: bool = True
    projection_bias: bool = False
    logit_bias: float | None = None
    mlp_ratio: float = 4.0
    start: int = 49_406
    end: int = 49_407
    pad: int = 0

    @property
    def mlp_width(self) -> int:
        return round(self.width * self.mlp_ratio)


_SIGLIP: dict[str, Any] = {
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
    "causal": False,
    "tokenizer": "file",
    "projects_images": False,
    "projection_bias": True,
    "logit_bias": -10.0,
    "start": -1,
}
TEXTS: dict[str, TextSpec] = {
    "micro": TextSpec(96, 3, 4, 96, 24, 76, "gelu", tokenizer="words", start=1, end=75),
    # openai/CLIP: ViT-B/32 and B/16, and L/14
    "clip_512": TextSpec(512, 12, 8, 512),
    "clip_768": TextSpec(768, 12, 12, 768),
    # OpenCLIP's of LAION-2B, with the plain GELU
    "openclip_512": TextSpec(512, 12, 8, 512, activation="gelu"),
    "openclip_768": TextSpec(768, 12, 12, 768, activation="gelu"),
    # google/siglip-base-patch16-224 (arXiv:2303.15343) and siglip2-base-patch16-224 (arXiv:2502.14786)
    "siglip_768": TextSpec(768, 12, 12, 768, 64, 32_000, pad=1, end=1, **_SIGLIP),
    "siglip2_768": TextSpec(768, 12, 12, 768, 64, 256_000, pad=0, end=1, **_SIGLIP),
}
