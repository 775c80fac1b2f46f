"""PAE (Wang et al., ICLR 2026, arXiv:2601.20232): prompts that start at the frequencies by which a task is told."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from peftbench.backbones.base import Backbone
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import InsertTokens
from peftbench.methods.base import METHODS
from peftbench.methods.observation import Batch, Evidence, Findings
from peftbench.methods.self_prompt import Lot
from peftbench.methods.vpt import Started, token_sequence

_AT_ONCE = 64
# the paper's windows have 16 x 16 frequencies on images of 224 pixels; smaller ones than 4 x 4 would be too many
WINDOWS, LEAST = 14, 4


@METHODS.add("pae")
@dataclass(frozen=True)
class PAE(Started):
    """VPT-deep whose first prompts are patches of images that were left the frequencies of one window each.

    Windows slide over the centred spectrum. Those under which the loss of the frozen network, with a fresh head and
    prompts of zeros, is smallest on `num_images` random images are taken, one for each prompt: the mean of the patches,
    with their positions, of these images under the window, weighed by their squared length (equations 2 to 4). Prompts
    of block l + 1 are what block l makes of its own, alone. L p D parameters. The objective `pae` ties the prompts of
    neighbouring blocks together. `window` is by default a fourteenth of the image, no less than 4, `stride` half of it.
    """

    paper: ClassVar[str] = "arXiv:2601.20232"
    faithfulness: ClassVar[str] = "adapted"
    adapted: ClassVar[str] = "The images are looked at as they are, where the release augments them."
    # the prompts of all blocks follow from the first
    deep = True

    num_tokens: int = option(20, ge=1)
    window: int | None = option(None, ge=1)
    stride: int | None = option(None, ge=1)
    num_images: int = option(128, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)

    def observe(self, evidence: Evidence) -> Findings:
        """Tokens [num_tokens, width] for each block, under its number."""
        backbone = copy.deepcopy(evidence.backbone).eval()
        blocks = token_sequence(self.name, backbone)
        if backbone.turns_keys or backbone.pairs_places:
            raise NotApplicable(f"{self.name} sends prompts alone through the blocks, which here need places on a grid")
        lot = Lot(self.num_images)
        for offered in evidence.images(_AT_ONCE):
            lot.offer(offered)
        batch = lot.rows
        height, width = batch["image"].shape[-2:]
        corners = [(top, left) for top in self._along(height) for left in self._along(width)]
        if len(corners) < self.num_tokens:
            raise NotApplicable(
                f"method.num_tokens = {self.num_tokens} is more than the {len(corners)} windows of the spectrum; set a "
                "smaller method.stride"
            )
        with torch.no_grad():
            losses = self.losses(evidence, batch, corners)
            taken = losses.topk(self.num_tokens, largest=False).indices.tolist()
            found = [self.tokens(backbone, [self.under(batch["image"], corners[number]) for number in taken])]
            for site in blocks[:-1]:
                found.append(site.module(found[-1][None])[0])
        return {str(layer): tokens.cpu() for layer, tokens in enumerate(found)}

    def losses(self, evidence: Evidence, batch: Batch, corners: Sequence[tuple[int, int]]) -> Tensor:
        """Of the frozen network with prompts of zeros, under the window at each corner."""
        prompted, shape = copy.deepcopy(evidence.backbone).eval(), evidence.backbone.shape
        zeros = torch.zeros(self.num_tokens, shape.width, device=prompted.device)
        sizes = self.num_tokens, shape.width, shape.patch_size, shape.num_prefix_tokens
        for site in prompted.sites("block"):
            site.wrap(lambda block: InsertTokens(block, *sizes, dropout=0.0, strip=True, start=zeros))
        classifier = evidence.classifier(prompted).eval()
        return torch.stack(
            [evidence.loss(classifier, {**batch, "image": self.under(batch["image"], corner)}) for corner in corners]
        )

    def tokens(self, backbone: Backbone, views: Sequence[Tensor]) -> Tensor:
        """[views, width]: the mean of the patches of each view's images, weighed by their squared length."""
        given: list[Tensor] = []
        hook = backbone.sites("block")[0].module.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        for view in views:
            backbone(view)
        hook.remove()
        tokens = []
        for patches in (of_view[:, backbone.shape.num_prefix_tokens :] for of_view in given):
            weights = patches.square().sum(dim=-1, keepdim=True)
            tokens.append((weights / weights.sum() * patches).sum(dim=(0, 1)))
        return torch.stack(tokens)

    def under(self, images: Tensor, corner: tuple[int, int]) -> Tensor:
        """Images [batch, 3, height, width] with the frequencies of the window at `corner` of the centred spectrum."""
        (top, left), axes = corner, (-2, -1)
        kept = torch.zeros_like(images[..., :1, :, :])
        kept[..., top : top + self._window(images.shape[-2]), left : left + self._window(images.shape[-1])] = 1
        spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=axes) * kept
        return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=axes)).real

    def _window(self, size: int) -> int:
        return min(self.window or max(round(size / WINDOWS), LEAST), size)

    def _along(self, size: int) -> Sequence[int]:
        """Where windows begin along one side of the spectrum."""
        return range(0, size - self._window(size) + 1, self.stride or max(self._window(size) // 2, 1))
