"""T5 (Raffel et al., JMLR 2020, arXiv:1910.10683) as a tower that reads image tokens and a text and writes a text.

The network is that of the library transformers (pip install 'peftbench[generation]').
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone, BackboneShape, InputSpec, Kind, Site
from peftbench.backbones.checkpoint import read_checkpoint, require_fit
from peftbench.backbones.families import site_at
from peftbench.backbones.tokenizers import Pieces, pieces_of
from peftbench.foundation.errors import BadInput, MissingInput

# what transformers itself passes over in older files
_PASSED_OVER = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


class Half:
    """The encoder or the decoder of a T5, as a transformer with sequences of its own."""

    lengths: Tensor | None = None

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def all_of(self, kind: type[Kind]) -> list[Kind]:
        return [module for module in self.net.modules() if isinstance(module, kind)]


class T5Tower(Backbone):
    """Sites of the encoder's blocks come first, those of the decoder's are numbered on behind them.

    Roles: attn (what attention adds, of which attn.proj is the last map), attn.cross (the same of the decoder's reading
    of the encoder), mlp, mlp.fc1, mlp.fc2, norm.1, norm.cross, norm.2, norm.final. Queries, keys and values are three
    maps here, so there is no attn.qkv.
    """

    inputs = ("text",)

    def __init__(self, net: Any, tokenizer: Pieces) -> None:
        sites = list(_sites(net))
        config = net.config
        shape = BackboneShape(
            family="t5",
            width=config.d_model,
            depth=config.num_layers + config.num_decoder_layers,
            num_heads=config.num_heads,
            patch_size=1,
            grid=(0, 0),
            num_prefix_tokens=0,
            num_parameters=sum(parameter.numel() for parameter in net.parameters()),
            sites=tuple(site.shape for site in sites),
        )
        super().__init__(net, shape, sites, InputSpec(0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "none"))
        self.tokenizer, self.pad, self.end = tokenizer, int(config.pad_token_id), int(config.eos_token_id)
        self._halves = Half(net.encoder), Half(net.decoder)
        self.freeze()

    @property
    def stacks(self) -> Sequence[Half]:
        return self._halves

    def rows(self, texts: Sequence[str]) -> Tensor:
        """Texts as ids with the end token, int64 [texts, length of the longest], padded behind it."""
        ids = [torch.tensor([*self.tokenizer.pieces(text), self.end]) for text in texts]
        return nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad)

    def texts(self, rows: Tensor) -> list[str]:
        """Written ids [texts, length] as texts."""
        return [self.tokenizer.text(row) for row in rows.tolist()]

    def read(self, ids: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Ids [batch, length] and image tokens [batch, tokens, width] -> what was read [batch, tokens + length, width]
        and which of it is no padding, bool [batch, tokens + length].

        Relative positions are those of words among words; image tokens have none (VL-T5's released code). They
        stand ahead, where the release has them behind, which is the same function.
        """
        encoder: Any = self.net.encoder
        real = F.pad(ids != self.pad, (seen.shape[1], 0), value=True)
        self._halves[0].lengths = real.sum(dim=1)
        places = encoder.block[0].layer[0].SelfAttention.compute_bias(ids.shape[1], ids.shape[1], device=ids.device)
        bias = F.pad(places, (seen.shape[1], 0, seen.shape[1], 0))
        bias = bias.masked_fill(~real[:, None, None], torch.finfo(bias.dtype).min)
        x = encoder.dropout(torch.cat([seen.to(bias.dtype), self.net.shared(ids)], dim=1))  # type: ignore[operator]
        for block in encoder.block:
            x = block(x, position_bias=bias)[0]
        return encoder.dropout(encoder.final_layer_norm(x)), real

    def likelihoods(self, read: Tensor, real: Tensor, rows: Tensor) -> Tensor:
        """Logits [batch, length, vocabulary] of the tokens of `rows`, ids [batch, length] with their end token, each
        from the ones ahead of it."""
        self._halves[1].lengths = (rows != self.pad).sum(dim=1)
        # T5 starts with its padding token
        before = F.pad(rows[:, :-1], (1, 0), value=self.pad)
        logits: Tensor = self.net(
            encoder_outputs=(read,), attention_mask=real.long(), decoder_input_ids=before, use_cache=False
        ).logits
        return logits

    def write(self, read: Tensor, real: Tensor, beams: int, longest: int) -> Tensor:
        """The likeliest text by a search with `beams`, of `longest` tokens at most: ids [batch, length]."""
        from transformers.modeling_outputs import BaseModelOutput

        config: Any = self.net.config
        written: Tensor = self.net.generate(  # type: ignore[operator]
            encoder_outputs=BaseModelOutput(last_hidden_state=read),
            attention_mask=real.long(),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=longest,
            # the library makes room for as many blocks as the encoder has
            use_cache=config.num_decoder_layers <= config.num_layers,
        )
        return written


class FeedForward(nn.Module):
    """The MLP of the library's block, out of its parts; the library's own asks its last map for a weight, which a
    method's wrapper has not."""

    act: nn.Module
    wi: nn.Module
    wi_0: nn.Module
    wi_1: nn.Module
    wo: nn.Module
    dropout: nn.Module

    def __init__(self, library: nn.Module) -> None:
        super().__init__()
        for name, part in library.named_children():
            self.add_module(name, part)
        self.gated = hasattr(library, "wi_0")

    def forward(self, x: Tensor) -> Tensor:
        inner = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        y: Tensor = self.wo(self.dropout(inner))
        return y


def _sites(net: Any) -> Iterator[Site]:
    layer = 0
    for half in (net.encoder, net.decoder):
        for block in half.block:
            attention, *cross, feed = block.layer
            feed.DenseReluDense = FeedForward(feed.DenseReluDense)
            yield from site_at(attention, "layer_norm", "norm.1", layer)
            for role in ("attn", "attn.proj"):
                yield from site_at(attention.SelfAttention, "o", role, layer)
            for reading in cross:
                yield from site_at(reading, "layer_norm", "norm.cross", layer)
                yield from site_at(reading.EncDecAttention, "o", "attn.cross", layer)
            yield from site_at(feed, "layer_norm", "norm.2", layer)
            yield from site_at(feed, "DenseReluDense", "mlp", layer)
            for name in ("wi", "wi_0", "wi_1"):
                yield from site_at(feed.DenseReluDense, name, "mlp.fc1", layer)
            yield from site_at(feed.DenseReluDense, "wo", "mlp.fc2", layer)
            layer += 1
        yield from site_at(half, "final_layer_norm", "norm.final")


def build_t5(described: Path, weights: Path, vocabulary: Path) -> T5Tower:
    """A T5 from its config.json, its weights and its tokenizer.json (`source.writer_files`).

    Raises `MissingInput` without the library, `BadInput` for files that hold no T5.
    """
    try:
        from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration
    except ImportError as error:
        raise MissingInput("texts are written by a library: pip install 'peftbench[generation]'") from error
    try:
        config = T5Config.from_json_file(described)
    except Exception as error:  # whatever the library finds in a damaged file
        raise BadInput(f"{described} does not describe a T5: {error}") from error
    if config.model_type != "t5":
        raise BadInput(f"{described} describes a model of type {config.model_type}, no T5")
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = T5ForConditionalGeneration(config)
    _load(net, weights)
    net.generation_config = GenerationConfig(
        decoder_start_token_id=config.pad_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return T5Tower(net, pieces_of(vocabulary, "backbone.vocabulary"))


def _load(net: Any, path: Path) -> None:
    """Raises `BadInput` where tensors are missing, unknown, of another shape or not finite."""
    state = {name: tensor.float() for name, tensor in read_checkpoint(path).items() if name != _PASSED_OVER}
    own = net.state_dict()
    # tensors that are one in the network lie in the file once
    first: dict[int, str] = {}
    for name, tensor in own.items():
        if name in state:
            first.setdefault(tensor.data_ptr(), name)
    for name in [name for name in own if name not in state and own[name].data_ptr() in first]:
        state[name] = state[first[own[name].data_ptr()]]
    words = "backbone.writer is a folder with the config.json and the weights of one T5"
    require_fit(path, state, own, "by its config.json", lambda _: words)
    net.load_state_dict(state)
