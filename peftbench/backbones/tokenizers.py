"""Tokenizers: texts -> rows of token ids, each text between a start and an end token, the rest of its row padding.

CLIP's byte-pair code and SigLIP's pieces are read by the library `tokenizers` (pip install 'peftbench[text]').
"""

from __future__ import annotations

import gzip
import html
import re
import string
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from peftbench.backbones.source import vocabulary_file
from peftbench.backbones.text_options import TextSpec
from peftbench.foundation.errors import BadInput, MissingInput, did_you_mean


class Tokenizer(Protocol):
    """Texts -> ids of their tokens, without start and end."""

    def pieces(self, text: str) -> list[int]:
        """Raises `BadInput` for what it cannot write."""
        ...


class Words:
    """One token a word, of a fixed list: what the embedded pair reads."""

    def __init__(self, words: Sequence[str]) -> None:
        """`words`: one entry a token, of one or more spellings apart by spaces; 0 is padding and 1 the start."""
        self._ids = {word: index for index, line in enumerate(words, start=2) for word in line.split()}

    def pieces(self, text: str) -> list[int]:
        found = re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", text.lower())
        for word in found:
            if word not in self._ids:
                words = f"the embedded pair does not know '{word}' of '{text}', docs/pairs.md has its words"
                raise BadInput(words + did_you_mean(word, self._ids))
        return [self._ids[word] for word in found]


@cache
def micro_words() -> Words:
    """The words of the embedded pair."""
    listed = (files("peftbench") / "assets" / "pair_micro_words.txt").read_text(encoding="utf-8")
    return Words(listed.splitlines())


class Pieces:
    """Parts of words by a tokenizer of the library `tokenizers`; `plain` drops capitals and punctuation, as SigLIP's
    (big_vision's and OpenCLIP's `canonicalize_text`, in which an underscore is a space)."""

    def __init__(self, library: Any, plain: bool = False) -> None:
        self._library, self._plain = library, plain

    def pieces(self, text: str) -> list[int]:
        text = html.unescape(html.unescape(text))
        if self._plain:
            text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).lower()
        # behind what was dropped: of two spaces some vocabularies have a piece
        text = re.sub(r"\s+", " ", text).strip()
        found: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return found

    def text(self, ids: Sequence[int]) -> str:
        """What ids spell, without the marks around it."""
        found: str = self._library.decode(list(ids), skip_special_tokens=True)
        return found.strip()

    def __deepcopy__(self, memo: Any) -> Pieces:
        return self


def pieces_of(path: Path, option: str, plain: bool = False, num_tokens: int = 0) -> Pieces:
    """The tokenizer of a tokenizer.json. Raises `MissingInput` without the library, `BadInput` for a file that is none.

    `option` names it in messages. Far fewer pieces than `num_tokens`, which the text tower has, are another model's.
    """

    def read() -> Any:
        from tokenizers import Tokenizer

        library = Tokenizer.from_file(str(path))
        if (size := library.get_vocab_size()) < 0.9 * num_tokens:
            raise ValueError(f"it has {size:,} pieces and the tower {num_tokens:,}, so it is another model's")
        return library

    return _read(option, path, read, plain)


def _read(option: str, path: Path, read: Callable[[], Any], plain: bool = False) -> Pieces:
    try:
        return Pieces(read(), plain)
    except ImportError as error:
        raise MissingInput("texts are cut into pieces by a library: pip install 'peftbench[text]'") from error
    except Exception as error:  # the library has no class of its own for what it cannot read
        raise BadInput(f"{option}={path} is no vocabulary for this model: {error}") from error


def tokenizer_of(spec: TextSpec, vocabulary: str | None, weights: Sequence[Path]) -> Tokenizer:
    """The tokenizer of a text tower: embedded, or of the file `vocabulary`, or of a tokenizer.json beside the weights.

    Raises `MissingInput` where there is no such file or library, `BadInput` for a file that is none.
    """
    file = vocabulary_file(spec, vocabulary, weights)
    if file is None:
        return micro_words()
    if file.suffix == ".json":
        return pieces_of(file, "backbone.vocabulary", not spec.causal, spec.num_tokens)
    return _read("backbone.vocabulary", file, lambda: _byte_pairs(file, spec.num_tokens))


def _byte_pairs(path: Path, num_tokens: int) -> Any:
    """CLIP's code from its list of merges (openai/CLIP, `simple_tokenizer.py`)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    # of 256 bytes, each also as the end of a word, and of start and end no merge is needed
    most = num_tokens - 2 * 256 - 2
    merges = [(first, second) for first, second in (line.split() for line in lines[1 : most + 1] if _is_merge(line))]
    if len(merges) < most:
        raise ValueError(f"of its lines {len(merges):,} join two pieces, and {most:,} are needed")
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in shown] + [chr(256 + index) for index in range(256 - len(shown))]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    code = Tokenizer(models.BPE(_numbered(words), merges, end_of_word_suffix="</w>"))
    code.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    code.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return code


def _is_merge(line: str) -> bool:
    return len(line.split()) == 2


def _numbered(words: Sequence[str]) -> dict[str, int]:
    return {word: index for index, word in enumerate(words)}


def framed(spec: TextSpec, pieces: Sequence[int]) -> list[int]:
    """A text's ids with start and end."""
    return [*([spec.start] if spec.start >= 0 else []), *pieces, spec.end]


def rows_of(spec: TextSpec, texts: Sequence[Sequence[int]]) -> Tensor:
    """Pieces of texts as rows of ids, int64 [texts, context]. Raises `BadInput` where one is too long."""
    rows = torch.full((len(texts), spec.context), spec.pad, dtype=torch.int64)
    for row, pieces in zip(rows, texts, strict=True):
        ids = framed(spec, pieces)
        if len(ids) > spec.context:
            raise BadInput(
                f"a text of {len(ids)} tokens, start and end among them, does not fit {spec.context} positions; "
                "shorten the template, the class names or what a method adds to them (method.num_tokens)"
            )
        if max(ids) >= spec.num_tokens:
            raise BadInput(
                f"the vocabulary has a piece number {max(ids):,} and the text tower {spec.num_tokens:,} of them: it "
                "is of another model; check backbone.vocabulary and backbone.text"
            )
        row[: len(ids)] = torch.tensor(ids)
    return rows
