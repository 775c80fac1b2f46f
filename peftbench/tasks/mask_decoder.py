"""SAM's prompt encoder and mask decoder (Kirillov et al., ICCV 2023, arXiv:2304.02643, appendix A), for box prompts.

Tensors are called as in the released checkpoints, so that these load as they are. What box prompts with one mask as the
answer never use is left out: points, mask prompts, the predicted quality and the three alternative masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.foundation.channels import channels_at, channels_last

MASK_TOKENS = 4
HEADS = 8


@dataclass(frozen=True)
class Sizes:
    """Width of image and prompt embeddings, width inside the MLPs of the decoder's transformer, and its depth."""

    width: int = 256
    mlp: int = 2048
    depth: int = 2

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Sizes:
        """Those of a checkpoint's tensors, under the names that they have in it."""
        inside = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"]
        layers = {name.split(".")[3] for name in state if name.startswith("mask_decoder.transformer.layers.")}
        return cls(inside.shape[1], inside.shape[0], len(layers))


class PromptedHead(nn.Module):
    """Embedding [batch, width, h, w] and boxes [batch, boxes, 4] -> mask logits [batch, boxes, 4 h, 4 w].

    With `num_classes` a semantic token stands beside the mask tokens, as in Tokenize Anything (arXiv:2312.09128,
    section 3.1), and a linear map of it gives class scores [batch, boxes, num_classes]; else there are none. The
    prompt encoder is frozen, as in all that fine-tunes SAM here; the mask decoder trains.
    """

    def __init__(self, sizes: Sizes, num_classes: int = 0) -> None:
        super().__init__()
        self.prompt_encoder = PromptEncoder(sizes.width)
        self.mask_decoder = MaskDecoder(sizes)
        self.sem_token = nn.Embedding(1, sizes.width) if num_classes else None
        self.classifier = nn.Linear(sizes.width, num_classes) if num_classes else None
        # what makes an embedding of a backbone's map, where the backbone does not
        self.project: nn.Module = nn.Identity()
        self.prompt_encoder.requires_grad_(False)

    def forward(self, embedding: Tensor, boxes: Tensor, image_size: int) -> tuple[Tensor, Tensor | None]:
        batch, count = boxes.shape[:2]
        prompts = self.prompt_encoder(boxes.flatten(0, 1), image_size)
        if self.sem_token is not None:
            prompts = torch.cat([prompts, self.sem_token.weight.expand(len(prompts), -1, -1)], dim=1)
        image = embedding.repeat_interleave(count, dim=0) + self.prompt_encoder.no_mask_embed.weight[..., None, None]
        positions = self.prompt_encoder.pe_layer.grid(*embedding.shape[2:])
        masks, tokens = self.mask_decoder(image, positions, prompts)
        scores = None if self.classifier is None else self.classifier(tokens[:, -1]).unflatten(0, (batch, count))
        return masks.unflatten(0, (batch, count)), scores


class FourierPositions(nn.Module):
    """Points [..., 2] (x, y in 0..1) -> [..., width]: sine and cosine of 2 pi (2 p - 1) G with a fixed random G."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, points: Tensor) -> Tensor:
        angles = 2 * math.pi * ((2 * points - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, height: int, width: int) -> Tensor:
        """Those of the centres of a map's cells: [height * width, channels]."""
        like = self.positional_encoding_gaussian_matrix
        rows, columns = (
            (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size for size in (height, width)
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        found: Tensor = self(torch.stack([x, y], dim=-1).flatten(0, 1))
        return found


class PromptEncoder(nn.Module):
    """Boxes [prompts, 4] (left, top, right, bottom: numbers of pixels, the last inside) -> two tokens each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pe_layer = FourierPositions(width)
        # not, is, first corner, second corner
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.no_mask_embed = nn.Embedding(1, width)

    def forward(self, boxes: Tensor, image_size: int) -> Tensor:
        places = boxes.to(self.no_mask_embed.weight.dtype).unflatten(1, (2, 2))
        corners = self.pe_layer((places + 0.5) / image_size)
        kinds = torch.cat([corner.get_parameter("weight") for corner in self.point_embeddings[2:]])
        return corners + kinds


class MaskDecoder(nn.Module):
    """Tokens and image attend to each other; the mask is the product of a token's vector with the enlarged image."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.transformer = TwoWayTransformer(sizes)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(width, width, width // 8)])

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Masks [prompts, 4 h, 4 w] and all tokens behind the transformer; an image and some tokens for each prompt."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts], dim=1)
        tokens, pixels = self.transformer(image.flatten(2).transpose(1, 2), positions, tokens)
        enlarged = self.output_upscaling(pixels.transpose(1, 2).reshape(image.shape))
        vector = self.output_hypernetworks_mlps[0](tokens[:, 1])
        masks = (vector[:, None] @ enlarged.flatten(2)).unflatten(2, enlarged.shape[2:])[:, 0]
        return masks, tokens


class LayerNorm2d(nn.LayerNorm):
    """A layer norm of the channels of maps [batch, channels, height, width]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return channels_at(super().forward(channels_last(x, 1)), 1)


class TwoWayTransformer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(sizes) for _ in range(sizes.depth))
        self.final_attn_token_to_image = Attention(sizes.width, sizes.width // 2)
        self.norm_final_attn = nn.LayerNorm(sizes.width)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        queries = tokens
        for number, layer in enumerate(self.layers):
            queries, image = layer(queries, image, tokens, positions, first=number == 0)
        found = self.final_attn_token_to_image(queries + tokens, image + positions, image)
        return self.norm_final_attn(queries + found), image


class TwoWayBlock(nn.Module):
    """Tokens to themselves, tokens to image, MLP on tokens, image to tokens; a norm behind each addition.

    The tokens at the start serve as their positions; the very first attention is without them and without addition.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.self_attn = Attention(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = TokenMLP(width, sizes.mlp)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_places: Tensor, positions: Tensor, first: bool
    ) -> tuple[Tensor, Tensor]:
        if first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_places
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_places, image + positions, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        changes = self.cross_attn_image_to_token(image + positions, tokens + token_places, tokens)
        return tokens, self.norm4(image + changes)


class Attention(nn.Module):
    """Attention of `HEADS` heads that are `inside` wide together."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inside) for _ in range(3))
        self.out_proj = nn.Linear(inside, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = (
            step(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for step, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        found: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found


class TokenMLP(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.lin2(F.relu(self.lin1(x)))
        return out


class MLP(nn.Module):
    """Three linear maps with relu between them."""

    def __init__(self, inside: int, hidden: int, outside: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([inside, hidden, hidden, outside]))

    def forward(self, x: Tensor) -> Tensor:
        *inner, last = self.layers
        for layer in inner:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out
