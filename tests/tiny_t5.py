"""A T5 of two blocks a half with random weights, in a folder as transformers writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def write_tiny_t5(folder: Path, answers: Sequence[str], **options: Any) -> Any:
    """Writes config.json, model.safetensors and tokenizer.json, one token a word; returns the library's model."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import T5Config, T5ForConditionalGeneration

    cut = pre_tokenizers.Whitespace()
    spoken = " ".join(["vqa: the colour type number row column of there is a shape shapes.", *answers])
    words = list(dict.fromkeys(["<pad>", "</s>", "<unk>", *(word for word, _ in cut.pre_tokenize_str(spoken))]))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = cut
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
    marks = {"vocab_size": len(words), "decoder_start_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = T5ForConditionalGeneration(T5Config(**(sizes | marks | options)))
    folder.mkdir(parents=True, exist_ok=True)
    net.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return net.eval()
