"""Class texts with learned tokens among their words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.class_texts import Reader, spoken
from peftbench.backbones.tokenizers import rows_of
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.base import Intervention

_LEARNED = -1
STD = 0.02
_MOST_AT_ONCE = 1024


def learned_rows(
    reader: Reader, names: Sequence[str], num_tokens: int, position: str = "end", words_behind: str = ""
) -> tuple[Tensor, Tensor]:
    """Token ids and slots, int64 [classes, length] each: where slots are not negative the learned token of that number
    stands, at the others the id.

    A text is the learned tokens, `words_behind`, the class name and a full stop; the class name ends it (`end`), stands
    between the halves of the tokens (`middle`), or comes first (`front`).
    """
    half = num_tokens // 2
    tokens = [_LEARNED - number for number in range(num_tokens)]
    behind = reader.tokenizer.pieces(words_behind) if words_behind else []
    stop = reader.tokenizer.pieces(".")
    texts = []
    for name in names:
        pieces = reader.tokenizer.pieces(spoken(name))
        ordered = {
            "end": [*tokens, *behind, *pieces],
            "middle": [*tokens[:half], *pieces, *tokens[half:]],
            "front": [*pieces, *tokens],
        }
        texts.append([*ordered[position], *stop])
    rows = reader.text.cut(rows_of(reader.text.spec, texts))
    learned = rows < 0
    # the end of a text is where its highest id stands: that of a learned token is none
    return rows.masked_fill(learned, 0), torch.where(learned, _LEARNED - rows, -1)


class LearnedContext(Intervention):
    """`base`, but by texts whose context is learned (CoOp, arXiv:2109.01134): -> features [classes, joint].

    context: [tokens, width], or of every class its own [classes, tokens, width]; N(0, 0.02), or the embeddings of
    `words` behind `zeros` vectors of zeros. `words_behind` stay words.
    """

    ids: Tensor
    slots: Tensor
    by_image = False

    def __init__(
        self,
        base: nn.Module,
        reader: Reader,
        names: Sequence[str],
        num_tokens: int,
        position: str = "end",
        class_specific: bool = False,
        words: str = "",
        words_behind: str = "",
        zeros: int = 0,
    ) -> None:
        super().__init__(base)
        ids, slots = learned_rows(reader, names, num_tokens, position, words_behind)
        device = reader.text.device
        self.register_buffer("ids", ids.to(device), persistent=False)
        self.register_buffer("slots", slots.to(device), persistent=False)
        shape = (len(names), num_tokens) if class_specific else (num_tokens,)
        start = torch.empty(*shape, reader.text.shape.width).normal_(std=STD)
        if words:
            pieces = reader.tokenizer.pieces(words)
            if zeros + len(pieces) != num_tokens:
                count = len(words.split())
                raise NotApplicable(
                    f"'{words}' are {len(pieces)} tokens of this pair in {count} words; take words of a token each"
                )
            known = reader.text.embed(torch.tensor(pieces, device=device)).detach()
            start = torch.cat([known.new_zeros(zeros, known.shape[1]), known])
        self.context = nn.Parameter(start.to(device))

    def forward(self, reader: Reader, features: Tensor) -> Tensor:
        return reader.text_features(self.embedded(reader, self.context), reader.text.ends(self.ids))

    def embedded(self, reader: Reader, context: Tensor) -> Tensor:
        """Embedded texts [classes, length, width] with `context` [(classes,) tokens, width] in its places."""
        words, slots = reader.text.embed(self.ids), self.slots.clamp(min=0)
        if context.ndim == 2:
            learned = context[slots]
        else:
            learned = context[torch.arange(len(slots), device=slots.device).unsqueeze(1), slots]
        return torch.where((self.slots >= 0).unsqueeze(-1), learned.to(words.dtype), words)


class ImageContext(LearnedContext):
    """The same with a context that the image moves (CoCoOp, arXiv:2203.05557): -> features [batch, classes, joint].

    v_m(x) = v_m + h(f / |f|), h a bottleneck of width `hidden` with torch's own start. Images are worked on in groups,
    so that at most about a thousand texts are read at once.
    """

    by_image = True

    def __init__(
        self, base: nn.Module, reader: Reader, names: Sequence[str], num_tokens: int, words: str, hidden: int
    ) -> None:
        super().__init__(base, reader, names, num_tokens, words=words)
        joint, width = reader.text.spec.joint, reader.text.shape.width
        self.meta = nn.Sequential(nn.Linear(joint, hidden), nn.ReLU(), nn.Linear(hidden, width)).to(reader.text.device)

    def forward(self, reader: Reader, features: Tensor) -> Tensor:
        moves = self.meta(F.normalize(features, dim=-1))
        classes = len(self.ids)
        ends = reader.text.ends(self.ids)
        made = []
        for group in moves.split(max(_MOST_AT_ONCE // classes, 1)):
            embedded = torch.cat([self.embedded(reader, self.context + move) for move in group])
            made.append(reader.text_features(embedded, ends.repeat(len(group))).unflatten(0, (-1, classes)))
        return torch.cat(made)
