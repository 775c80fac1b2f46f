"""Retrieval between images and texts: recall at 1, 5 and 10 in both directions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.foundation.exact import exact
from peftbench.train.batches import Batch
from peftbench.train.evaluate import Measured

KS = (1, 5, 10)
# rows of the similarity matrix that are held at once
_ROWS = 256


def recalls(images: Tensor, texts: Tensor, image_of_text: Tensor, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """`image_to_text_r<k>` and `text_to_image_r<k>`, fractions, and their mean under `mean_recall`.

    images [num_images, width], texts [num_texts, width], image_of_text int64 [num_texts]: the image each text belongs
    to. Similarity is the cosine. An image counts where any text of its own is among its k nearest, a text where its
    image is. What is as near as the right one stands before it: equal features retrieve nothing.
    """
    images, texts = F.normalize(exact(images), dim=-1), F.normalize(exact(texts), dim=-1)
    image_ranks = _ranks(images, texts, torch.arange(len(images), device=images.device), image_of_text)
    text_ranks = _ranks(texts, images, image_of_text, torch.arange(len(images), device=images.device))
    found = {f"image_to_text_r{k}": _share(image_ranks, k) for k in ks}
    found |= {f"text_to_image_r{k}": _share(text_ranks, k) for k in ks}
    return found | {"mean_recall": sum(found.values()) / len(found)}


def _share(ranks: Tensor, k: int) -> float:
    return float((ranks < k).double().mean())


def _ranks(queries: Tensor, gallery: Tensor, query_group: Tensor, gallery_group: Tensor) -> Tensor:
    """How many of the others in the gallery are at least as near as the nearest of the query's own: int64 [queries]."""
    ranks = []
    for start in range(0, len(queries), _ROWS):
        similarity = queries[start : start + _ROWS] @ gallery.T
        own = query_group[start : start + _ROWS, None] == gallery_group[None]
        nearest = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((similarity >= nearest) & ~own).sum(dim=1))
    return torch.cat(ranks)


def own_texts(counts: Tensor, most: int) -> Tensor:
    """Which of `most` places hold a text where each image has `counts` [batch] of them: bool [batch, most]."""
    return torch.arange(most, device=counts.device)[None] < counts[:, None]


class RetrievalMeter:
    """(image features [batch, width], text features [batch, texts, width]) -> recalls over the whole split as pool.

    `batch["captions"]`, int64 [batch], says how many of the texts of each image are its own; the rest is padding.
    """

    def __init__(self) -> None:
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []
        self._owners: list[Tensor] = []
        self._seen = 0

    def update(self, outputs: Any, batch: Batch) -> None:
        images, texts = outputs
        num_images, most, _ = texts.shape
        kept = own_texts(batch["captions"], most)
        owners = torch.arange(self._seen, self._seen + num_images, device=texts.device)[:, None].expand(-1, most)
        self._images.append(exact(images))
        self._texts.append(exact(texts[kept]))
        self._owners.append(owners[kept])
        self._seen += num_images

    def result(self) -> Measured:
        assert self._images, "no batch was seen"
        texts = torch.cat(self._texts)
        found = recalls(torch.cat(self._images), texts, torch.cat(self._owners))
        return Measured({**found, "n": self._seen, "num_texts": len(texts)})
