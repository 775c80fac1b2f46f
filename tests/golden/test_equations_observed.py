"""Methods that look at images first: what they choose, and what they compute, written out in plain tensor operations.

The reference reads weights by name from a bare backbone and never calls the methods' own classes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.cells.evidence import CellEvidence, random_evidence
from peftbench.contracts.backbones import images, make
from peftbench.methods.base import METHODS, install
from peftbench.methods.observation import Findings, Loss
from peftbench.methods.spt import NUM_STEPS, STEPS_PER_BUDGET

WIDTH, LAYER = 48, 1


def moved(name: str, findings: Findings, backbone: str = "vit_cls", **options: Any) -> Backbone:
    """The method in eval mode, its tensors moved off their start."""
    built = make(backbone)
    install(METHODS.get(name)(**options), built, 5, findings)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for _, tensor in built.trainable:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return built.eval()


def number_of(backbone: Backbone, role: str, layer: int = LAYER) -> int:
    return [(site.shape.role, site.layer) for site in backbone.all_sites].index((role, layer))


def tensor(backbone: Backbone, ending: str) -> Tensor:
    """The one tensor of block LAYER whose name ends so."""
    (found,) = [
        t for n, t in backbone.named_parameters() if n.startswith(f"net.blocks.{LAYER}.") and n.endswith(ending)
    ]
    return found.detach()


def all_images(num_images: int) -> tuple[Tensor, Tensor]:
    """The images and labels that `random_evidence` shows, in order."""
    batches = list(random_evidence(make("vit_cls"), num_images).images(8))
    return torch.cat([b["image"] for b in batches]), torch.cat([b["label"] for b in batches])


def test_gps_moves_one_entry_of_each_row_and_the_bias() -> None:
    bare = make("vit_cls")
    columns = {
        str(number): torch.arange(site.shape.out_dim)[:, None] % 7
        for number, site in enumerate(bare.all_sites)
        if site.shape.role in ("embed", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    backbone = moved("gps", columns)
    weight = tensor(bare, "mlp.fc1.weight").clone()
    rows = torch.arange(192)
    weight[rows, rows % 7] += tensor(backbone, "mlp.fc1.weight_values")
    x = torch.randn(2, 5, WIDTH)
    site = backbone.sites("mlp.fc1")[LAYER]
    torch.testing.assert_close(site.module(x), x @ weight.T + tensor(backbone, "mlp.fc1.base.bias"), atol=1e-5, rtol=0)


def test_gps_convolution_rows_are_flattened() -> None:
    bare = make("vit_cls")
    columns = {
        str(number): torch.full((site.shape.out_dim, 1), site.shape.in_dim - 1)
        for number, site in enumerate(bare.all_sites)
        if site.shape.role in ("embed", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    backbone = moved("gps", columns)
    embed: Any = backbone.sites("embed")[0].module
    weight = make("vit_cls").net.patch_embed.proj.weight.detach().clone()  # type: ignore[union-attr]
    weight[:, 2, 7, 7] += embed.weight_values.detach()
    expected = F.conv2d(images(), weight, embed.base.bias, stride=8)
    torch.testing.assert_close(embed(images()), expected, atol=1e-5, rtol=0)


def test_gps_chooses_by_the_gradient_of_the_supervised_contrastive_loss() -> None:
    backbone = make("vit_cls")
    evidence = random_evidence(backbone, num_images=8)
    found = METHODS.get("gps")(num_connections=2, batch_size=4, temperature=0.2).observe(evidence)
    model = make("vit_cls").train()
    weight = model.net.blocks[LAYER].attn.proj.weight.requires_grad_(True)  # type: ignore[union-attr, index, operator]
    total = torch.zeros_like(weight)
    for first, second in evidence.views(4):
        assert torch.equal(first["label"], second["label"]) and not torch.equal(first["image"], second["image"])
        z = model(torch.cat([first["image"], second["image"]]))
        z, labels = z / z.norm(dim=1, keepdim=True), [*first["label"].tolist()] * 2
        losses = []
        for i in range(8):
            others = [j for j in range(8) if j != i]
            scores = torch.stack([z[i] @ z[j] / 0.2 for j in others])
            positives = [scores[n] for n, j in enumerate(others) if labels[j] == labels[i]]
            losses.append(-(torch.stack(positives) - scores.exp().sum().log()).mean())
        total += torch.autograd.grad(torch.stack(losses).mean(), weight)[0]
    expected = total.abs().topk(2, dim=1).indices.sort(dim=1).values
    assert torch.equal(found[str(number_of(backbone, "attn.proj"))].long(), expected)


@pytest.mark.parametrize(("num_images", "seen"), [(8, 2), (10, 2), (3, 1)])
def test_gps_leaves_a_short_last_batch_out_where_told(num_images: int, seen: int) -> None:
    method: Any = METHODS.get("gps")(batch_size=4, whole_batches=True)
    evidence = random_evidence(make("vit_cls"), num_images)
    assert len(list(method._scored(evidence))) == seen
    everything: Any = METHODS.get("gps")(batch_size=4)
    assert sum(len(first["label"]) for first, _ in everything._scored(evidence)) == num_images


@pytest.mark.parametrize(("place", "stream"), [("attn", 1.0), ("mlp", 1.0), ("attn", 0.3)])
def test_sct_changes_the_salient_channels(place: str, stream: float) -> None:
    channels = {str(layer): torch.tensor([3, 10, 20, 21, 40, 47]) for layer in range(3)}
    options = {"place": place, "scale": 0.5, "stream_scale": stream}
    bare, backbone = make("vit_layerscale"), moved("sct", channels, "vit_layerscale", **options)
    block: Any = bare.net.blocks[LAYER]  # type: ignore[union-attr, index, operator]
    weight, bias = tensor(backbone, "linear.weight"), tensor(backbone, "linear.bias")

    def change(x: Tensor) -> Tensor:
        x = x.clone()
        chosen = x[..., channels["0"]]
        added = chosen @ weight.T + bias
        x[..., channels["0"]] = stream * chosen + 0.5 * added
        return x

    x = torch.randn(2, 17, WIDTH)
    with torch.no_grad():
        middle = x + block.ls1(block.attn(block.norm1(x)))
        middle = change(middle) if place == "attn" else middle
        out = block.mlp(block.norm2(middle))
        expected = middle + block.ls2(change(out) if place == "mlp" else out)
        found = backbone.net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_sct_scores_channels_class_by_class_on_patches_alone() -> None:
    found = METHODS.get("sct")(share=0.25).observe(random_evidence(make("vit_registers"), num_images=60))
    net: Any = make("vit_registers").net
    pixels, labels = all_images(60)
    with torch.no_grad():
        x = net.norm_pre(net._pos_embed(net.patch_embed(pixels)))
        for block in net.blocks[:LAYER]:
            x = block(x)
        block = net.blocks[LAYER]
        x = (x + block.attn(block.norm1(x)))[:, 3:]  # a class token and two registers
    scores = torch.stack([x[labels == label].reshape(-1, WIDTH).norm(dim=0) for label in range(4)]).mean(dim=0)
    assert found[str(LAYER)].tolist() == sorted(scores.topk(12).indices.tolist())


def test_ttc_starts_from_the_norms_it_found_and_changes_the_channels() -> None:
    norms = {f"norm.{n}.{part}": torch.randn(WIDTH) for n in range(7) for part in ("weight", "bias")}
    channels = torch.tensor([3, 10, 20, 21, 40, 47])
    bare, backbone = make("vit_layerscale"), make("vit_layerscale")
    method = METHODS.get("ttc")(scale=0.5)
    install(method, backbone, 5, norms | {str(layer): channels for layer in range(3)})
    with torch.no_grad():
        tensor(backbone, "linear.bias").add_(torch.randn(6))
    weight, bias = tensor(backbone, "linear.weight"), tensor(backbone, "linear.bias")
    block: Any = bare.net.blocks[LAYER]  # type: ignore[union-attr, index, operator]

    def norm(x: Tensor, number: int) -> Tensor:
        return F.layer_norm(x, (WIDTH,), norms[f"norm.{number}.weight"], norms[f"norm.{number}.bias"], eps=1e-6)

    x = torch.randn(2, 17, WIDTH)
    with torch.no_grad():
        middle = x + block.ls1(block.attn(norm(x, 2)))
        middle[..., channels] += 0.5 * (middle[..., channels] @ weight.T + bias)
        expected = middle + block.ls2(block.mlp(norm(middle, 3)))
        found = backbone.eval().net.blocks[LAYER](x)  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    last: Any = backbone.net.norm
    assert torch.equal(last.weight, norms["norm.6.weight"]) and torch.equal(last.bias, norms["norm.6.bias"])
    assert {name.split(".")[-2] for name, _ in backbone.trainable} == {"norm1", "norm2", "norm", "linear"}


class Moved(CellEvidence):
    """Stage 1 without training: every tensor that may train is moved by a known amount."""

    def fit(self, model: nn.Module, loss: Loss, epochs: int, lr: float | None = None) -> None:
        assert (epochs, lr) == (20, None), "a fifth of the cell's 100 epochs at its own rate"
        move(model)


def move(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_ttc_scores_channels_by_the_change_of_the_loss_without_them() -> None:
    evidence = Moved(**vars(random_evidence(make("vit_registers"), num_images=60)))
    found = METHODS.get("ttc")(share=0.25).observe(evidence)

    model: Any = evidence.classifier(make("vit_registers"))
    net = model.backbone.net
    norms = [norm for block in net.blocks for norm in (block.norm1, block.norm2)] + [net.norm]
    model.backbone.freeze()
    for norm in norms:
        norm.requires_grad_(True)
    move(model)
    for number, norm in enumerate(norms):
        assert torch.equal(found[f"norm.{number}.weight"], norm.weight)
        assert torch.equal(found[f"norm.{number}.bias"], norm.bias)

    pixels, labels = all_images(60)
    scores = torch.zeros(WIDTH)
    for image, label in zip(pixels, labels, strict=True):
        x = net.norm_pre(net._pos_embed(net.patch_embed(image[None])))
        for block in net.blocks[:LAYER]:
            x = block(x)
        block = net.blocks[LAYER]
        stream = (x + block.attn(block.norm1(x))).detach().requires_grad_(True)
        x = stream + block.mlp(block.norm2(stream))
        for block in net.blocks[LAYER + 1 :]:
            x = block(x)
        loss = F.cross_entropy(model.head(net.norm(x)[:, 0]), label[None])
        (slope,) = torch.autograd.grad(loss, stream)
        scores += (stream.detach() * slope)[0].sum(dim=0).abs()
    assert found[str(LAYER)].tolist() == sorted(scores.topk(12).indices.tolist())


def spt_findings(backbone: Backbone) -> Findings:
    qkv, norm = number_of(backbone, "attn.qkv"), number_of(backbone, "norm.2")
    return {
        f"{qkv}.weight": torch.tensor([7, 48 * 60 + 5]),
        f"{qkv}.modules": torch.tensor([2]),
        f"{norm}.weight": torch.arange(48),
        f"{norm}.bias": torch.tensor([11]),
        "class_token": torch.tensor(48),
    }


@pytest.mark.parametrize("name", ["spt_lora", "spt_adapter"])
def test_spt_adds_entries_and_modules(name: str) -> None:
    bare = make("vit_cls")
    backbone = moved(name, spt_findings(bare), rank=2)
    x = torch.randn(2, 5, WIDTH)
    weight, values = tensor(bare, "attn.qkv.weight").clone(), tensor(backbone, "attn.qkv.base.weight_values")
    weight[0, 7] += values[0]
    weight[60, 5] += values[1]
    expected = x @ weight.T + tensor(bare, "attn.qkv.bias")
    if name == "spt_lora":
        expected[..., 96:] += x @ tensor(backbone, "delta.down").T @ tensor(backbone, "delta.up").T
    else:
        v = expected[..., 96:]
        hidden = F.gelu(v @ tensor(backbone, "down.weight").T + tensor(backbone, "down.bias"))
        expected = torch.cat(
            [expected[..., :96], v + hidden @ tensor(backbone, "up.weight").T + tensor(backbone, "up.bias")], dim=-1
        )
    found = backbone.sites("attn.qkv")[LAYER].module(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    norm: Any = backbone.sites("norm.2")[LAYER].module
    scale, shift = tensor(bare, "norm2.weight") + norm.weight_values.detach(), tensor(bare, "norm2.bias").clone()
    shift[11] += norm.bias_values.detach()[0]
    expected = F.layer_norm(x, (WIDTH,), scale, shift, eps=1e-6)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=0)


def test_spts_adapter_may_read_what_attentions_output_projection_reads() -> None:
    bare = make("vit_cls")
    found = {f"{number_of(bare, 'attn.proj')}.modules": torch.tensor([0]), "class_token": torch.tensor(48)}
    backbone = moved("spt_adapter", found, rank=2, proj_reads="input")
    x = torch.randn(2, 5, WIDTH)
    hidden = F.gelu(x @ tensor(backbone, "down.weight").T + tensor(backbone, "down.bias"))
    expected = x @ tensor(bare, "attn.proj.weight").T + tensor(bare, "attn.proj.bias")
    expected = expected + hidden @ tensor(backbone, "up.weight").T + tensor(backbone, "up.bias")
    torch.testing.assert_close(backbone.sites("attn.proj")[LAYER].module(x), expected, atol=1e-5, rtol=0)


def test_spt_lora_drops_the_input_of_q_k_and_v_with_one_mask_and_that_of_proj_never() -> None:
    bare = make("vit_cls")
    qkv, proj = (number_of(bare, role) for role in ("attn.qkv", "attn.proj"))
    found = {f"{qkv}.modules": torch.tensor([0, 1, 2]), f"{proj}.modules": torch.tensor([0])}
    backbone = moved("spt_lora", found | {"class_token": torch.tensor(48)}, rank=2, dropout=0.5, drop_path=0.0)
    delta, at_proj = (backbone.sites(role)[LAYER].module.train() for role in ("attn.qkv", "attn.proj"))
    x = torch.randn(2, 5, WIDTH)
    seen = []
    for part in delta.deltas.values():
        part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    delta(x)
    assert len(seen) == 3 and (seen[0] == 0).any()
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    assert torch.equal(at_proj(x), at_proj.eval()(x))


def test_spt_adapter_drops_each_of_q_k_and_v_and_proj_never() -> None:
    method: Any = METHODS.get("spt_adapter")(dropout=0.5)
    bare = make("vit_cls")
    assert method.dropout_at(bare.sites("attn.qkv")[0]) == 0.5 and method.dropout_at(bare.sites("attn.proj")[0]) == 0


def test_spt_takes_79_steps_of_20_000_towards_400_000_on_vit_b() -> None:
    budget = METHODS.get("spt_lora")().budget * 85_798_656
    steps = [round(step / STEPS_PER_BUDGET * budget) for step in range(1, NUM_STEPS + 1)]
    assert steps == list(range(20_000, 1_600_000, 20_000)) and budget == pytest.approx(400_000)


def test_spts_sensitivity_keeps_double_precision() -> None:
    """The sum over two batches of squared gradients of a norm and of a matrix, as precise as the network."""
    backbone, method = make("vit_cls").double(), METHODS.get("spt_lora")(num_batches=2, batch_size=8)
    shown = random_evidence(backbone)
    evidence: Any = SimpleNamespace(
        images=lambda size: ({**batch, "image": batch["image"].double()} for batch in shown.images(size)),
        classifier=lambda backbone: shown.classifier(backbone).double(),
        loss=shown.loss,
    )
    block = backbone.net.blocks[LAYER]  # type: ignore[index, union-attr]
    tensors = [block.norm1.weight, block.mlp.fc1.weight]
    found = method._sensitivity(evidence, backbone, tensors)  # type: ignore[attr-defined]

    model, expected = evidence.classifier(backbone).train(), torch.zeros(48 + 192 * 48, dtype=torch.float64)
    for batch in list(evidence.images(8))[:2]:
        gradients = torch.autograd.grad(evidence.loss(model, batch), tensors)
        expected += torch.cat([gradient.flatten() for gradient in gradients]) ** 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_spt_marks_the_most_sensitive_entries_within_the_budget() -> None:
    options = {"budget": 0.02, "rank": 2, "num_batches": 2, "batch_size": 8, "alpha": 4.0}
    backbone = make("vit_cls")
    evidence = random_evidence(backbone)
    method = METHODS.get("spt_lora")(**options)
    found = method.observe(evidence)

    model = evidence.classifier(make("vit_cls")).train()
    names = [n for n, _ in model.named_parameters() if ".blocks." in n or n.startswith("backbone.net.norm.")]
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(True)
    sensitivity = {name: torch.zeros_like(parameters[name]) for name in names}
    for step, batch in enumerate(evidence.images(8)):
        if step < 2:
            loss = F.cross_entropy(model(batch["image"]), batch["label"])
            for name, gradient in zip(names, torch.autograd.grad(loss, [parameters[n] for n in names]), strict=True):
                sensitivity[name] += gradient**2

    budget = 0.02 * sum(p.numel() for p in make("vit_cls").parameters())
    best, best_marks = 1e9, {}
    for step in range(1, 80):
        ranked = torch.cat([s.flatten() for s in sensitivity.values()]).sort(descending=True).values
        level = ranked[-int(-step * budget // 20) - 1]
        total, marks = 48, {}
        for name, score in sensitivity.items():
            for part, piece in enumerate(score.chunk(3 if ".qkv." in name else 1)):
                marked = piece >= level
                size = 2 * sum(piece.shape) if piece.ndim == 2 else piece.numel()
                whole = int(marked.sum()) >= (size / 4 if piece.ndim == 2 else size / 5)
                total += size if whole else int(marked.sum())
                marks[name, part] = "whole" if whole else marked.flatten().nonzero().flatten().tolist()
        if abs(total - budget) <= best:
            best, best_marks = abs(total - budget), marks
    assert method.expected_with(backbone.shape, found) == pytest.approx(budget, abs=best + 1)

    fc1 = f"{number_of(backbone, 'mlp.fc1')}"
    for part in range(3):
        key, qkv = (f"backbone.net.blocks.{LAYER}.attn.qkv.weight", part), number_of(backbone, "attn.qkv")
        if best_marks[key] == "whole":
            assert part in found[f"{qkv}.modules"].tolist()
        else:
            own = [p - part * 48 * 48 for p in found.get(f"{qkv}.weight", torch.tensor([])).tolist()]
            assert [p for p in own if 0 <= p < 48 * 48] == best_marks[key]
    marks = best_marks[f"backbone.net.blocks.{LAYER}.mlp.fc1.weight", 0]
    assert (f"{fc1}.modules" in found) == (marks == "whole")
    if marks != "whole":
        assert found.get(f"{fc1}.weight", torch.tensor([])).tolist() == marks
    kinds = {
        "modules" if marks == "whole" and key[0].endswith("weight") else "entries" for key, marks in best_marks.items()
    }
    assert kinds == {"modules", "entries"}, "both kinds must occur for this test to mean anything"
