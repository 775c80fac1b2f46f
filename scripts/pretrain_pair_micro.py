"""Pretrain the embedded pair `pair_micro` on drawn pictures and their captions, and write it as a safetensors file.

    python scripts/pretrain_pair_micro.py --out peftbench/assets/pair_micro.safetensors

Pictures are drawn from the parts of `named_shapes` (without the pairs of colour and shape that are held out there) and
taken from the 800 training images of `digits`; a caption is put together from what was drawn. The run can be stopped at
any time: it goes on from `--checkpoint`. Nothing is chosen on held-out pairs; zero-shot accuracy on them is read once,
after the last step.

Recipe: image tower from the first four blocks of `vit_micro`, text tower from CLIP's start; symmetric InfoNCE in which
equal captions are no negatives of each other, learned scale of at most 100; batch 256, AdamW, linear warm-up, half
cosine to zero, shifts of up to 2 px.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

import peftbench.backbones.vit_micro as vit_micro
from peftbench.backbones.source import embedded_file
from peftbench.backbones.text import TextNet
from peftbench.backbones.text_options import TEXTS
from peftbench.backbones.tokenizers import micro_words, rows_of
from peftbench.data.drawn import random_of
from peftbench.data.sources import captioned_shapes as captioned
from peftbench.data.sources import named_shapes as drawn
from peftbench.data.sources.digits import Digits

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Pair(nn.Module):
    """Both towers, their projections and the scale, under the names of the packaged file."""

    def __init__(self) -> None:
        super().__init__()
        spec = TEXTS["micro"]
        self.image = timm.create_model(vit_micro.PAIR_NAME, num_classes=0)
        self.text = TextNet(spec)
        self.image_projection = nn.Linear(128, spec.joint, bias=False)
        self.text_projection = nn.Linear(spec.width, spec.joint, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def images(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.image_projection(self.image(pixels)).float(), dim=1)

    def texts(self, ids: Tensor) -> Tensor:
        ends = ids.argmax(1)
        ids = ids[:, : int(ends.max()) + 1]
        tokens = self.text(self.text.token_embed(ids))[torch.arange(len(ids)), ends]
        return F.normalize(self.text_projection(tokens).float(), dim=1)


def starting_weights() -> dict[str, Tensor]:
    """The first four blocks of `vit_micro`, its patches and positions resampled to half their number a side."""
    state = load_file(embedded_file())
    state["patch_embed.proj.weight"] = resample_patch_embed(state["patch_embed.proj.weight"], [8, 8])
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [4, 4])
    return {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "blocks.4.", "blocks.5."))}


JITTER, NOISE = 18.0, (4.0, 16.0)
Shown = captioned.Shown


def scene(seed: int, index: int, digits: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, Shown]:
    """A picture uint8 [32, 32, 3] and what it shows."""
    random = random_of("pair_micro", seed, index)
    if random.uniform() < 0.1:
        image, label = digits[random.randint(len(digits))]
        return _small(image), {"digit": captioned.NUMBERS[label]}
    picture, shown = captioned.picture_of(random, JITTER, NOISE, lambda *pair: not drawn.held_out(*pair))
    return _small(picture), shown


def caption(shown: Shown, random: np.random.RandomState) -> str:
    """A caption of what is shown, which names some of it."""
    if "digit" not in shown:
        return captioned.caption_of(shown, random)
    opening = captioned.OPENINGS[random.randint(len(captioned.OPENINGS))]
    thing = ("the digit {}", "a handwritten {}", "the number {}", "{}")[random.randint(4)]
    words = f"{opening} {thing.format(shown['digit'])}"
    return words + (" ." if random.uniform() < 0.7 else "")


def _small(image: np.ndarray) -> np.ndarray:
    resized = Image.fromarray(image).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def normalise(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2).float() - mean) / std


def shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every picture moved by up to 2 px each way, its border repeated."""
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate").permute(0, 2, 3, 1)
    offset = torch.randint(0, 5, (2, len(pixels)), generator=generator)
    rows, columns = (offset[axis].view(-1, 1) + torch.arange(32) for axis in range(2))
    index = torch.arange(len(pixels)).view(-1, 1, 1)
    return padded[index, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()


def info_nce(images: Tensor, texts: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over a batch; of equal captions only the picture's own counts."""
    logits = scale * images @ texts.T
    equal = (ids[:, None] == ids[None]).all(2)
    logits = logits.masked_fill(equal & ~torch.eye(len(ids), dtype=torch.bool), float("-inf"))
    target = torch.arange(len(ids))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def zero_shot(pair: Pair, classes: str) -> float:
    """Accuracy among the classes of a half of `named_shapes`, on its test split."""
    words = micro_words()
    source = drawn.NamedShapes(classes=classes).open()
    texts = [words.pieces(f"a photo of a {name}.") for name in source.class_names]
    known = pair.texts(rows_of(TEXTS["micro"], texts))
    split = source.split("test")
    pixels = torch.from_numpy(np.stack([_small(np.asarray(split.read(index))) for index in range(len(split))]))
    features = torch.cat([pair.images(normalise(part)) for part in pixels.split(250)])
    return float((features @ known.T).argmax(1).eq(torch.from_numpy(split.labels)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("results/work/pretrain_pair_micro.pt"))
    parser.add_argument("--pictures", type=int, default=16_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    words = micro_words()
    started = time.perf_counter()
    split = Digits().open().split("train800")
    digits = [(np.asarray(split.read(index)), int(split.labels[index])) for index in range(len(split))]
    scenes = [scene(args.seed, index, digits) for index in range(args.pictures)]
    pictures = torch.from_numpy(np.stack([image for image, _ in scenes]))
    print(f"{len(scenes)} pictures drawn in {time.perf_counter() - started:.0f} s", flush=True)
    pair = Pair()
    pair.image.load_state_dict(starting_weights())
    matrices = [tensor for tensor in pair.parameters() if tensor.ndim > 1]
    vectors = [tensor for tensor in pair.parameters() if tensor.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    warmup = max(args.steps // 20, 1)

    def factor(step: int) -> float:
        done = (step - warmup) / max(args.steps - warmup, 1)
        return (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * done)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parts: list[Any] = [pair, optimizer, schedule]
    begin, seconds, curve = 0, time.perf_counter() - started, []
    if args.checkpoint.is_file():
        state = torch.load(args.checkpoint, weights_only=True)
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        begin, seconds, curve = state["step"], state["seconds"] + seconds, state["curve"]
        print(f"going on after step {begin}", flush=True)

    for step in range(begin, args.steps):
        since = time.perf_counter()
        random = random_of("pair_micro captions", args.seed, step)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        chosen = torch.randperm(len(scenes), generator=generator)[: args.batch_size]
        captions = [caption(scenes[index][1], random) for index in chosen.tolist()]
        ids = rows_of(TEXTS["micro"], [words.pieces(text) for text in captions])
        images, texts = pair.images(shifted(normalise(pictures[chosen]), generator)), pair.texts(ids)
        loss = info_nce(images, texts, ids, pair.logit_scale.exp())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            pair.logit_scale.clamp_(max=math.log(100))
        seconds += time.perf_counter() - since
        if (step + 1) % 50 == 0:
            curve.append({"step": step + 1, "loss": round(float(loss), 4)})
            print(f"{curve[-1]} scale {float(pair.logit_scale.exp()):.1f} {seconds:.0f} s", flush=True)
            args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            temporary = args.checkpoint.with_suffix(".tmp")
            states = [part.state_dict() for part in parts]
            torch.save({"parts": states, "step": step + 1, "seconds": seconds, "curve": curve}, temporary)
            temporary.replace(args.checkpoint)

    pair.eval().half().float()
    card = {
        "model": "pair_micro",
        "data": f"{args.pictures} drawn pictures and the 800 training images of digits, captions drawn anew each step",
        "zero_shot_seen": zero_shot(pair, "seen"),
        "zero_shot_held_out": zero_shot(pair, "held_out"),
        "scale": float(pair.logit_scale.detach().exp()),
        "train_seconds": round(seconds),
        "recipe": {k: v for k, v in vars(args).items() if k not in ("out", "checkpoint")},
        "curve": curve,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in pair.state_dict().items()}
    save_file(tensors, args.out, metadata={"card": json.dumps(card)})
    print(json.dumps({k: v for k, v in card.items() if k != "curve"}, indent=2))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
