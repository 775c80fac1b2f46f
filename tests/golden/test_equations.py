"""The papers' equations, written out with plain tensor operations for one ViT block, against the installed methods.

The reference below shares no code with the methods: it reads weights by name from the bare backbone and the
method's own tensors from the installed one, after all of them were moved off their initial values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.contracts.backbones import make
from peftbench.methods.base import METHODS, install

WIDTH, HEADS, LAYER = 48, 3, 1
Operation = Callable[[str, Tensor], Tensor]


def installed(name: str, backbone: str = "vit_layerscale", **options: Any) -> Backbone:
    """The method on a tiny ViT in eval mode, its tensors moved off their start."""
    built = make(backbone)
    install(METHODS.get(name)(**options), built, seed=5)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in built.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return built.eval()


def weights(backbone: str = "vit_layerscale") -> dict[str, Tensor]:
    """Tensors of one block of the bare backbone under their short names: `attn.qkv.weight`, `ls1.gamma`, ..."""
    block: Any = make(backbone).net.blocks[LAYER]  # type: ignore[union-attr, index, operator]
    return {name: tensor.detach() for name, tensor in block.named_parameters()}


def tokens(length: int = 17) -> Tensor:
    return torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(4))


def plain(w: dict[str, Tensor]) -> Operation:
    """The block's own operations: norms and linear maps by name."""

    def operation(name: str, x: Tensor) -> Tensor:
        if name.startswith("norm"):
            return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    return operation


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head."""
    heads = []
    for query, key, value in zip(*(part.split(WIDTH // HEADS, dim=-1) for part in (q, k, v)), strict=True):
        scores = query @ key.transpose(1, 2) / (WIDTH // HEADS) ** 0.5
        heads.append(scores.softmax(dim=-1) @ value)
    return torch.cat(heads, dim=-1)


def block(
    x: Tensor, w: dict[str, Tensor], op: Operation, beside_mlp: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Pre-norm block with LayerScale where `w` has it; `beside_mlp` reads the stream after attention."""
    q, k, v = op("attn.qkv", op("norm1", x)).split(WIDTH, dim=-1)
    x = x + w.get("ls1.gamma", torch.tensor(1.0)) * op("attn.proj", attention(q, k, v))
    mlp = op("mlp.fc2", F.gelu(op("mlp.fc1", op("norm2", x))))
    return x + w.get("ls2.gamma", torch.tensor(1.0)) * mlp + (beside_mlp(x) if beside_mlp else 0)


@torch.no_grad()
def run(backbone: Backbone, x: Tensor) -> Tensor:
    """The installed block on tokens [2, length, width]."""
    out: Tensor = backbone.net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    return out


def of_block(backbone: Backbone, part: str) -> list[Tensor]:
    """The method's tensors of the block whose name contains `part`, in order."""
    return [p.detach() for name, p in backbone.trainable if name.startswith(f"net.blocks.{LAYER}.") and part in name]


def agree(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_reference_itself_is_timms_block() -> None:
    agree(run(make("vit_layerscale"), tokens()), block(tokens(), weights(), plain(weights())))


def test_bitfit_moves_the_biases_and_nothing_else() -> None:
    backbone, w = installed("bitfit"), weights()
    moved = dict(backbone.net.blocks[LAYER].named_parameters())  # type: ignore[union-attr, index, operator]
    for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
        assert not torch.equal(w[f"{name}.bias"], moved[f"{name}.bias"])
        w[f"{name}.bias"] = moved[f"{name}.bias"].detach()
    agree(run(backbone, tokens()), block(tokens(), w, plain(w)))


def test_lora_adds_scaled_b_a_x_to_q_and_v() -> None:
    backbone, w = installed("lora", rank=4, alpha=6.0), weights()
    a_q, a_v = of_block(backbone, "down")
    b_q, b_v = of_block(backbone, "up")

    def op(name: str, x: Tensor) -> Tensor:
        y = plain(w)(name, x)
        if name != "attn.qkv":
            return y
        none = torch.zeros_like(x)
        return y + 6 / 4 * torch.cat([x @ a_q.T @ b_q.T, none, x @ a_v.T @ b_v.T], dim=-1)

    agree(run(backbone, tokens()), block(tokens(), w, op))


def test_lora_on_the_output_projection_and_the_mlp() -> None:
    backbone, w = installed("lora", rank=2, alpha=2.0, targets=["fc2", "proj", "fc1"]), weights()

    def op(name: str, x: Tensor) -> Tensor:
        y = plain(w)(name, x)
        if name in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            (a,), (b,) = of_block(backbone, f"{name}.deltas.0.down"), of_block(backbone, f"{name}.deltas.0.up")
            y = y + x @ a.T @ b.T
        return y

    agree(run(backbone, tokens()), block(tokens(), w, op))


def test_lora_shifts_the_weight_before_query_and_key_norms() -> None:
    backbone, bare = installed("lora", "vit_qknorm", rank=3, alpha=3.0), make("vit_qknorm")
    (a_q, a_v), (b_q, b_v) = of_block(backbone, "down"), of_block(backbone, "up")
    with torch.no_grad():
        weight = bare.net.blocks[LAYER].attn.qkv.weight  # type: ignore[union-attr, index]
        weight[:WIDTH] += b_q @ a_q
        weight[2 * WIDTH :] += b_v @ a_v
    agree(run(backbone, tokens()), run(bare, tokens()))


def test_ssf_scales_and_shifts_after_every_operation() -> None:
    backbone, w = installed("ssf"), weights()

    def op(name: str, x: Tensor) -> Tensor:
        (scale,), (shift,) = of_block(backbone, f"{name}.scale"), of_block(backbone, f"{name}.shift")
        return scale * plain(w)(name, x) + shift

    agree(run(backbone, tokens()), block(tokens(), w, op))


def test_ssf_around_the_blocks() -> None:
    backbone, bare = installed("ssf"), make("vit_layerscale")
    own = {name: tensor.detach() for name, tensor in backbone.trainable if ".blocks." not in name}
    assert {name.rsplit(".", 1)[0] for name in own} == {"net.patch_embed.proj", "net.norm"}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        maps = bare.net.patch_embed.proj(x)  # type: ignore[union-attr, operator]
        maps = maps * own["net.patch_embed.proj.scale"].view(1, -1, 1, 1)
        maps = maps + own["net.patch_embed.proj.shift"].view(1, -1, 1, 1)
        agree(backbone.net.patch_embed.proj(x), maps)  # type: ignore[union-attr, operator]
        normed = bare.net.norm(tokens())  # type: ignore[operator]
        agree(backbone.net.norm(tokens()), own["net.norm.scale"] * normed + own["net.norm.shift"])  # type: ignore[operator]


def adapter(backbone: Backbone, scale: float) -> Callable[[Tensor], Tensor]:
    (down, up), (down_bias, up_bias) = of_block(backbone, ".weight"), of_block(backbone, ".bias")
    return lambda z: scale * (torch.relu(z @ down.T + down_bias) @ up.T + up_bias)


def test_adaptformer_reads_the_stream_after_attention() -> None:
    backbone, w = installed("adaptformer", bottleneck=5, scale=0.7), weights()
    agree(run(backbone, tokens()), block(tokens(), w, plain(w), adapter(backbone, 0.7)))


def test_adaptformer_can_read_the_normalised_stream() -> None:
    backbone, w = installed("adaptformer", bottleneck=5, scale=0.7, reads="normed"), weights()
    branch, op = adapter(backbone, 0.7), plain(w)
    agree(run(backbone, tokens()), block(tokens(), w, op, lambda x: branch(op("norm2", x))))


def through_blocks(prefix: int, prompts: Callable[[int], Tensor | None], replace: bool, backbone: str) -> Tensor:
    """Tokens through the three bare blocks with prompts behind the prefix, cut off at the end: [2, 17, width]."""
    x, inserted = tokens(), 0
    with torch.no_grad():
        for layer, bare_block in enumerate(make(backbone).net.blocks):  # type: ignore[arg-type]
            prompt = prompts(layer)
            if prompt is not None:
                rest = x[:, prefix + (inserted if replace else 0) :]
                x = torch.cat([x[:, :prefix], prompt.expand(2, -1, -1), rest], dim=1)
                inserted = prompt.shape[1]
            assert x.shape[1] == 17 + inserted
            x = bare_block(x)
    return torch.cat([x[:, :prefix], x[:, prefix + inserted :]], dim=1)


def through_installed(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        out: Tensor = backbone.net.blocks(tokens())  # type: ignore[operator]
    return out


def test_vpt_shallow_prompts_pass_through_all_blocks() -> None:
    for name, prefix in (("vit_layerscale", 1), ("vit_avg", 0), ("vit_registers", 3)):
        backbone = installed("vpt_shallow", name, num_tokens=4)
        ((_, prompt),) = backbone.trainable
        agree(
            through_installed(backbone), through_blocks(prefix, lambda i, p=prompt: p if i == 0 else None, False, name)
        )


def test_vpt_deep_prompts_replace_those_of_the_block_before() -> None:
    for name, prefix in (("vit_layerscale", 1), ("vit_avg", 0), ("vit_distilled", 2)):
        backbone = installed("vpt_deep", name, num_tokens=4)
        prompts = [prompt for _, prompt in backbone.trainable]
        assert len(prompts) == 3
        agree(through_installed(backbone), through_blocks(prefix, prompts.__getitem__, True, name))


def test_initial_values_follow_the_papers() -> None:
    lora, ssf, adaptformer, vpt = make("vit_cls"), make("vit_cls"), make("vit_cls"), make("vit_cls")
    install(METHODS.get("lora")(rank=16), lora)
    for name, tensor in lora.trainable:
        if name.endswith("up"):
            assert not tensor.any()
        else:  # kaiming-uniform with a = sqrt(5): U(-1/sqrt(in), 1/sqrt(in))
            assert 0.95 * 48**-0.5 < tensor.abs().max() <= 48**-0.5
    install(METHODS.get("ssf")(), ssf)
    scales = torch.cat([tensor.flatten() for name, tensor in ssf.trainable if name.endswith("scale")])
    shifts = torch.cat([tensor.flatten() for name, tensor in ssf.trainable if name.endswith("shift")])
    for values, mean in ((scales, 1.0), (shifts, 0.0)):
        assert abs(values.mean() - mean) < 0.003 and abs(values.std() - 0.02) < 0.002
    install(METHODS.get("adaptformer")(), adaptformer)
    zero = [not tensor.any() for name, tensor in adaptformer.trainable if "down.weight" not in name]
    assert zero and all(zero)
    install(METHODS.get("vpt_deep")(num_tokens=50), vpt)
    bound = (6 / (3 * 8 * 8 + 48)) ** 0.5  # xavier bound of the 8 x 8 patch projection
    for _, tensor in vpt.trainable:
        assert 0.95 * bound < tensor.abs().max() <= bound and abs(tensor.mean()) < 0.02
