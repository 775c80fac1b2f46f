"""Pretrain the embedded promptable segmenter `sam_micro` on drawn scenes and write it in SAM's own layout, as fp16.

    python scripts/pretrain_sam_micro.py --out peftbench/assets/sam_micro.safetensors

Nothing is downloaded: the scenes are those of `dataset=scenes` with seeds 1 and 2, none of which any cell with the
default seed 0 sees. Encoder, prompt encoder and mask decoder train together on the box around each class of a scene,
moved by up to one pixel. The run can be stopped at any time: it goes on from `--checkpoint` at the last whole epoch.
The last 500 scenes are held out to watch progress; nothing is chosen on them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import peftbench.backbones.sam_micro as sam_micro
from peftbench.backbones.build import from_timm
from peftbench.data.sources.scenes import CLASSES, scene
from peftbench.tasks.base import Classes
from peftbench.tasks.promptable import Promptable, PromptableMeter, Prompts
from peftbench.train.batches import Batches
from peftbench.train.evaluate import evaluate

HELD_OUT = 500
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FIRST = 1


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count, 32, 32, 3] and class maps uint8 [count, 32, 32]."""
    scenes = [scene(1 + number % 2, number // 2) for number in range(count)]
    return np.stack([s.image for s in scenes]), np.stack([s.class_map for s in scenes])


def turned(images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The whole batch mirrored or turned by right angles; a scene has no up and down."""
    quarter = int(torch.randint(0, 4, (), generator=generator))
    images, maps = images.rot90(quarter, (2, 3)), maps.rot90(quarter, (1, 2))
    return (images.flip(3), maps.flip(2)) if torch.rand((), generator=generator) < 0.5 else (images, maps)


def loss_of(task: Promptable, answers: Any, maps: Tensor, generator: torch.Generator) -> Tensor:
    """With every edge of a box moved by at most one pixel."""
    exact = Prompts.of(maps, FIRST, answers.num_asked)
    moves = torch.randint(-1, 2, exact.boxes.shape, generator=generator)
    boxes = (exact.boxes + moves).clamp(0, maps.shape[-1] - 1)
    return task.loss(answers, Prompts(boxes, exact.there, exact.masks, exact.known))


def in_sams_layout(model: Any) -> dict[str, Tensor]:
    """Every tensor under the name that Segment Anything's releases have for it, as fp16."""
    encoder = {
        f"image_encoder.{k.replace('.mlp.fc', '.mlp.lin')}": v for k, v in model.backbone.net.state_dict().items()
    }
    head = {k: v for k, v in model.head.state_dict().items() if k.startswith(("prompt_encoder.", "mask_decoder."))}
    return {name: tensor.half().contiguous() for name, tensor in (encoder | head).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("results/work/pretrain_sam_micro.pt"))
    parser.add_argument("--scenes", type=int, default=4_500)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-steps", type=int, default=0, help="stop each epoch early, to measure speed")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    net: Any = timm.create_model(sam_micro.NAME, num_classes=0)
    torch.nn.init.trunc_normal_(net.pos_embed, std=0.02)
    task = Promptable()
    model: Any = task.model(from_timm(net), Classes(CLASSES), args.seed)
    # in pretraining all of it trains
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    pixels, class_maps = drawn(args.scenes)
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) * 255 for numbers in (MEAN, STD))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    maps = torch.from_numpy(class_maps).long()
    count = args.scenes - HELD_OUT
    steps = min(args.limit_steps or count, count // args.batch_size)
    total, warmup = args.epochs * steps, steps // 2 + 1
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * float(np.cos(np.pi * step / total)))
    )
    first, seconds, curve = 0, 0.0, []
    if args.checkpoint.is_file():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, seconds, curve = state["epoch"], state["seconds"], state["curve"]
        print(f"going on after epoch {first}", flush=True)

    held = Batches({"image": pixels[count:]}, {"class_map": class_maps[count:]}, batch_size=100, mean=MEAN, std=STD)
    for epoch in range(first, args.epochs):
        started = time.process_time()
        generator = torch.Generator().manual_seed(args.seed * 100_003 + epoch)
        model.train()
        order, running = torch.randperm(count, generator=generator), 0.0
        for step in range(steps):
            chosen = order[step * args.batch_size : (step + 1) * args.batch_size]
            batch, truth = turned((images[chosen].float() - mean) / std, maps[chosen], generator)
            with torch.autocast("cpu", torch.bfloat16):
                answers = model(batch)
            loss = loss_of(task, answers, truth, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            running += loss.item()
        seconds += time.process_time() - started
        found = evaluate(model, held, PromptableMeter(CLASSES[FIRST:], FIRST)).metrics
        curve.append({"epoch": epoch + 1, "loss": running / steps, "held_out_miou": found["miou"]})
        print(f"epoch {epoch + 1}/{args.epochs} {curve[-1]} {seconds:.0f} s", flush=True)
        args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = args.checkpoint.with_suffix(".tmp")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch + 1,
                "seconds": seconds,
                "curve": curve,
            },
            temporary,
        )
        temporary.replace(args.checkpoint)

    card = {
        "model": sam_micro.NAME,
        "data": f"{count:,} drawn scenes of seeds 1 and 2",
        "held_out_miou": curve[-1]["held_out_miou"],
        "core_seconds": round(seconds),
        "recipe": {k: v for k, v in vars(args).items() if k not in ("out", "checkpoint", "limit_steps")},
        "curve": curve,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(in_sams_layout(model), args.out, metadata={"card": json.dumps(card)})
    print(f"held-out mIoU {card['held_out_miou']:.4f} after {seconds:.0f} core seconds; wrote {args.out}")


if __name__ == "__main__":
    main()
