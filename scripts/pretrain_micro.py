"""Pretrain an embedded backbone on CIFAR-10 and write it as a safetensors file.

    python scripts/pretrain_micro.py --model vit_micro --data DIR --out peftbench/assets/vit_micro.safetensors

DIR holds `train.parquet` and `test.parquet` (columns image, label), or is a torchvision root to which
CIFAR-10 is downloaded. The run can be stopped at any time: it goes on from `--checkpoint` at the last
whole epoch. Nothing is chosen on the test set; it is read once, after the last epoch. The last 1,000
training images are held out to watch progress.

Recipe: crop with 4 px padding, flip, cutout, cutmix on half of the batches, label smoothing 0.1;
Muon on the matrices of the blocks, AdamW on everything else, linear warm-up and linear decay to zero.
`vit_micro` besides: patch dropout (token dropping) that ends before the last quarter of training; attention
starts from the mimetic initialisation of Trockman and Kolter (arXiv:2305.09828) with sine-cosine positions.
`convnext_micro` besides: LayerScale starts at 0.1, since 1e-6 is made for longer training.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from peftbench.backbones.convnext_micro import NAME as CONVNEXT
from peftbench.backbones.swin_micro import NAME as SWIN
from peftbench.backbones.vit_micro import NAME as VIT

NAMES = {"vit_micro": VIT, "swin_micro": SWIN, "convnext_micro": CONVNEXT}

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def load_split(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] uint8 and labels [N] int64 of one CIFAR-10 split."""
    file = data / f"{split}.parquet"
    if file.is_file():
        table = pq.read_table(file)
        column = table["image"].to_pylist()
        images = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in column])
        labels = np.asarray(table["label"].to_pylist())
    else:
        from torchvision.datasets import CIFAR10

        source = CIFAR10(str(data), train=split == "train", download=True)
        images, labels = source.data, np.asarray(source.targets)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()


def normalise(images: Tensor) -> Tensor:
    mean = torch.tensor(MEAN).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD).view(1, 3, 1, 1) * 255
    return (images.float() - mean) / std


def augment(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random crop, flip, cutout of 8 px, and cutmix on half of the batches. Returns soft labels [B, 10]."""
    batch = images.shape[0]
    padded = F.pad(normalise(images), (4, 4, 4, 4))
    offset = torch.randint(0, 9, (2, batch), generator=generator)
    rows = offset[0].view(-1, 1) + torch.arange(32)
    columns = offset[1].view(-1, 1) + torch.arange(32)
    flip = torch.rand(batch, generator=generator) < 0.5
    columns[flip] = columns[flip].flip(1)
    index = torch.arange(batch).view(-1, 1, 1)
    out = padded.permute(0, 2, 3, 1)[index, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2).contiguous()
    soft = F.one_hot(labels, 10).float()
    corner = torch.randint(-4, 28, (2, batch), generator=generator)
    span = torch.arange(32)
    inside_y = (span >= corner[0].view(-1, 1)) & (span < corner[0].view(-1, 1) + 8)
    inside_x = (span >= corner[1].view(-1, 1)) & (span < corner[1].view(-1, 1) + 8)
    out.masked_fill_((inside_y.unsqueeze(2) & inside_x.unsqueeze(1)).unsqueeze(1), 0.0)
    if torch.rand((), generator=generator) < 0.5:
        order = torch.randperm(batch, generator=generator)
        side = int(32 * torch.rand((), generator=generator).sqrt())
        top, left = (int(torch.randint(0, 33 - side, (), generator=generator)) for _ in range(2))
        out[:, :, top : top + side, left : left + side] = out[order, :, top : top + side, left : left + side]
        kept = 1 - side * side / 1024
        soft = kept * soft + (1 - kept) * soft[order]
    return out, soft


@torch.no_grad()
def mimetic_init(model: Any) -> None:
    """W_q' W_k near the identity in every head, W_v W_proj near minus the identity (arXiv:2305.09828, section 3)."""
    width = model.embed_dim
    head = width // model.blocks[0].attn.num_heads

    def factors(alpha: float, beta: float, rank: int) -> tuple[Tensor, Tensor]:
        target = alpha * torch.randn(width, width) / width**0.5 + beta * torch.eye(width)
        left, values, right = torch.linalg.svd(target)
        root = values[:rank].sqrt()
        return left[:, :rank] * root, right[:rank].T * root

    for block in model.blocks:
        query, key, value = block.attn.qkv.weight.view(3, width, width)
        for start in range(0, width, head):
            left, right = factors(0.7, 0.7, head)
            query[start : start + head], key[start : start + head] = left.T, right.T
        left, right = factors(0.4, -0.4, width)
        value.copy_(right.T)
        block.attn.proj.weight.copy_(left)
    position = torch.arange(8.0)
    frequency = 10_000 ** (-torch.arange(0, width // 4) / (width // 4))
    waves = torch.cat([(position[:, None] * frequency).sin(), (position[:, None] * frequency).cos()], dim=1)
    grid = torch.cat([waves[:, None].expand(8, 8, -1), waves[None].expand(8, 8, -1)], dim=2)
    model.pos_embed[:, 1:] = 0.5 * grid.reshape(1, 64, width)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    correct = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(images), 500):
            part = slice(start, start + 500)
            correct += int((model(normalise(images[part])).argmax(1) == labels[part]).sum())
    return correct / len(images)


def built(name: str, patch_drop: float) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The network, and what a step calls: on a CPU compiling pays for the ViT alone."""
    if name == "convnext_micro":
        model = timm.create_model(CONVNEXT, ls_init_value=0.1).to(memory_format=torch.channels_last)
        depthwise: list[Any] = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
        for convolution in depthwise:
            # on CPUs its gradient is several times as slow in bf16
            convolution.forward = _in_fp32(convolution.forward)
        return model, model
    if name == "swin_micro":
        model = timm.create_model(SWIN, drop_path_rate=0.0)
        return model, model
    model = timm.create_model(VIT, patch_drop_rate=patch_drop)
    mimetic_init(model)
    return model, torch.compile(model)


def _in_fp32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float())

    return apply


def optimizers(model: nn.Module, muon_lr: float, lr: float) -> list[torch.optim.Optimizer]:
    linears = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "head" not in name]
    matrices = [linear.weight for linear in linears]
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    muon = torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.05, momentum=0.95)
    return [muon, torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=NAMES, default="vit_micro")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="default: results/work/pretrain_MODEL.pt")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--patch-drop", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-steps", type=int, default=0, help="stop each epoch early, to measure speed")
    args = parser.parse_args()
    args.checkpoint = args.checkpoint or Path(f"results/work/pretrain_{args.model}.pt")

    torch.manual_seed(args.seed)
    train_images, train_labels = load_split(args.data, "train")
    held_images, held_labels = train_images[-1000:], train_labels[-1000:]
    train_images, train_labels = train_images[:-1000], train_labels[:-1000]
    model, step_model = built(args.model, args.patch_drop)
    optims = optimizers(model, args.muon_lr, args.lr)
    steps_per_epoch = args.limit_steps or len(train_images) // args.batch_size
    total, warmup = args.epochs * steps_per_epoch, steps_per_epoch

    def factor(step: int) -> float:
        return min((step + 1) / warmup, (total - step) / (total - warmup))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optim, factor) for optim in optims]
    parts: list[Any] = [*optims, *schedules]
    first, seconds, curve = 0, 0.0, []
    if args.checkpoint.is_file():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        first, seconds, curve = state["epoch"], state["seconds"], state["curve"]
        print(f"going on after epoch {first}", flush=True)

    for epoch in range(first, args.epochs):
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(args.seed * 100_003 + epoch)
        torch.manual_seed(args.seed * 100_003 + epoch)
        model.train()
        if args.model == "vit_micro":
            model.patch_drop.prob = args.patch_drop if epoch < 0.75 * args.epochs else 0.0
        order = torch.randperm(len(train_images), generator=generator)
        running = torch.zeros(())
        for step in range(steps_per_epoch):
            chosen = order[step * args.batch_size : (step + 1) * args.batch_size]
            images, soft = augment(train_images[chosen], train_labels[chosen], generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = step_model(images)
            loss = F.cross_entropy(logits.float(), soft, label_smoothing=0.1)
            loss.backward()
            for optim, schedule in zip(optims, schedules, strict=True):
                optim.step()
                schedule.step()
                optim.zero_grad(set_to_none=True)
            running += loss.detach()
        seconds += time.perf_counter() - started
        held = accuracy(model, held_images, held_labels)
        curve.append({"epoch": epoch + 1, "loss": float(running) / steps_per_epoch, "held_out": held})
        print(f"epoch {epoch + 1}/{args.epochs} {curve[-1]} {seconds:.0f} s", flush=True)
        args.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = args.checkpoint.with_suffix(".tmp")
        states = [part.state_dict() for part in parts]
        torch.save(
            {"model": model.state_dict(), "parts": states, "epoch": epoch + 1, "seconds": seconds, "curve": curve},
            temporary,
        )
        temporary.replace(args.checkpoint)

    test = accuracy(model, *load_split(args.data, "test"))
    card = {
        "model": NAMES[args.model],
        "data": "CIFAR-10, 49,000 training images",
        "cifar10_test_accuracy": test,
        "train_seconds": round(seconds),
        "recipe": {k: v for k, v in vars(args).items() if k not in ("data", "out", "checkpoint")},
        "mean": MEAN,
        "std": STD,
        "curve": curve,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, args.out, metadata={"card": json.dumps(card)})
    args.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"CIFAR-10 test accuracy {test:.4f} after {seconds:.0f} s; wrote {args.out}")


if __name__ == "__main__":
    main()
