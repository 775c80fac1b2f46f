"""Visual prompt tuning (Jia et al., ECCV 2022, arXiv:2203.12119), shallow and deep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.base import Backbone, BackboneShape, Site
from peftbench.foundation.errors import NotApplicable
from peftbench.foundation.spec import option
from peftbench.interventions import InsertTokens, StripTokens
from peftbench.methods.base import METHODS, Method
from peftbench.methods.observation import Findings


@dataclass(frozen=True)
class _Prompts(Method):
    """What both forms share: learnable tokens between the class token and the patches, cut off before pooling.

    Dropout takes other entries of the prompts in each image, as in the released code. Of networks that pool patches the
    release averages the prompts in as well (`vit_mae.py`, `VIT_POOL_TYPE` original); here they are left out.
    """

    family: ClassVar[str] = "prompt"
    paper: ClassVar[str] = "arXiv:2203.12119"
    identity_at_init: ClassVar[bool] = False
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int = option(10, ge=1)
    dropout: float = option(0.1, ge=0, lt=1)

    def _insert(self, backbone: Backbone, site: Site, strip: bool) -> None:
        shape = backbone.shape
        site.wrap(
            lambda block: InsertTokens(
                block, self.num_tokens, shape.width, shape.patch_size, shape.num_prefix_tokens, self.dropout, strip
            )
        )


class Started(Method):
    """Base of VPT whose tokens start from what is found: those of a block, [num_tokens, width], under its number.

    Deep as `vpt_deep`; shallow (`deep` false) as `vpt_shallow`, one finding.
    """

    family: ClassVar[str] = "prompt"
    identity_at_init: ClassVar[bool] = False
    observes: ClassVar[bool] = True
    size_option: ClassVar[str] = "num_tokens"

    num_tokens: int
    deep: bool
    dropout: float

    def attach_with(self, backbone: Backbone, findings: Findings) -> None:
        shape, blocks = backbone.shape, token_sequence(self.name, backbone)
        for layer, site in enumerate(blocks[: len(findings)]):
            strip = self.deep or len(blocks) == 1
            start = findings[str(layer)].to(backbone.device)

            def insert(block: nn.Module, start: Tensor = start, strip: bool = strip) -> nn.Module:
                sizes = self.num_tokens, shape.width, shape.patch_size, shape.num_prefix_tokens
                return InsertTokens(block, *sizes, self.dropout, strip, start=start)

            site.wrap(insert)
        if not self.deep and len(blocks) > 1:
            blocks[-1].wrap(lambda block: StripTokens(block, self.num_tokens, shape.num_prefix_tokens))

    def expected_params(self, shape: BackboneShape) -> int:
        return (shape.depth if self.deep else 1) * self.num_tokens * shape.width


def token_sequence(name: str, backbone: Backbone) -> list[Site]:
    """The blocks through which one sequence of tokens goes. Raises `NotApplicable` where there is none."""
    if backbone.shape.family != "vit":
        raise NotApplicable(
            f"{name} needs one token sequence through all blocks; {backbone.shape.family} has windows or maps"
        )
    return backbone.sites("block")


@METHODS.add("vpt_shallow")
@dataclass(frozen=True)
class VPTShallow(_Prompts):
    """Tokens enter before the first block and go through all blocks (section 3.2, equations 4 to 6). p D parameters.

    The released runs drop 10 % of the prompts of the deep form and none of these.
    """

    version: ClassVar[int] = 3

    dropout: float = option(0.0, ge=0, lt=1)

    def attach(self, backbone: Backbone) -> None:
        blocks = token_sequence(self.name, backbone)
        self._insert(backbone, blocks[0], strip=len(blocks) == 1)
        if len(blocks) > 1:
            blocks[-1].wrap(lambda block: StripTokens(block, self.num_tokens, backbone.shape.num_prefix_tokens))

    def expected_params(self, shape: BackboneShape) -> int:
        return self.num_tokens * shape.width


@METHODS.add("vpt_deep")
@dataclass(frozen=True)
class VPTDeep(_Prompts):
    """Every block gets its own tokens, which replace those of the block before (equations 7 and 8). L p D parameters.

    Cutting a block's prompts off and inserting the next block's is that replacement.
    """

    version: ClassVar[int] = 2

    def attach(self, backbone: Backbone) -> None:
        for site in token_sequence(self.name, backbone):
            self._insert(backbone, site, strip=True)

    def expected_params(self, shape: BackboneShape) -> int:
        return shape.depth * self.num_tokens * shape.width
