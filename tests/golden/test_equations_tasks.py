"""Methods that make maps for each task: their counts on the published networks, and their equations written out."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.base import Backbone
from peftbench.backbones.build import from_timm
from peftbench.backbones.maps import feature_maps, of_each_task, serve, taps_of
from peftbench.contracts.backbones import images, installed, make
from peftbench.contracts.test_methods import nudge
from peftbench.foundation.errors import BadInput, NotApplicable
from peftbench.interventions.diffeomorphism import flow, velocity
from peftbench.interventions.windows import windowed
from peftbench.methods.base import METHODS, install
from peftbench.methods.tadformer import DynamicFilter
from peftbench.methods.ve_prompt import classes_of
from peftbench.tasks.decoders import HRNetDecoder
from peftbench.train.optim import param_groups
from peftbench.train.options import OptimSpec


def on_swin(size: str, tasks: int = 4) -> Backbone:
    with torch.device("meta"):
        backbone = from_timm(timm.create_model(f"swin_{size}_patch4_window7_224", pretrained=False, num_classes=0))
    serve(backbone, tasks, 4)
    return backbone


def trained(name: str, backbone: Backbone, **options: Any) -> int:
    method = METHODS.get(name)(**options)
    install(method, backbone)
    count = sum(tensor.numel() for _, tensor in backbone.trainable)
    assert count == method.expected_params(backbone.shape)
    return count


@torch.no_grad()
def own_maps(name: str, backbone: str = "vit_cls", **options: Any) -> tuple[Backbone, list[list[Tensor]]]:
    """A nudged backbone in evaluation mode, and the maps of its two tasks."""
    built = nudge(installed(METHODS.get(name)(**options), backbone + "_of_tasks")).eval()
    maps = feature_maps(built, (images(2),), taps_of(built, 2).layers)
    return built, of_each_task(maps, 2, 2)


def as_map(backbone: Backbone, tokens: Tensor) -> Tensor:
    """Tokens of the tiny plain transformer as `feature_maps` gives them."""
    return backbone.sites("norm.final")[0].module(tokens)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def test_a_method_that_tells_tasks_apart_needs_several() -> None:
    with pytest.raises(NotApplicable, match=r"mtlora tells several tasks with maps apart; .*task=several"):
        install(METHODS.get("mtlora")(), make("vit_cls"))


@pytest.mark.parametrize(("rank", "total"), [(16, 4_953_146), (32, 6_083_642), (64, 8_344_634)])
def test_mtlora_trains_as_many_as_published_and_the_final_norm(rank: int, total: int) -> None:
    """The paper's 4.95, 6.08 and 8.34 M, decoders behind the merging steps included; its Swin has no final norm."""
    with torch.device("meta"):
        decoders = [HRNetDecoder((192, 384, 768, 768), outputs) for outputs in (21, 7, 1, 3)]
    counts = [sum(tensor.numel() for tensor in decoder.parameters()) for decoder in decoders]
    assert sum(counts) == 1_946_624
    assert trained("mtlora", on_swin("tiny"), rank=rank) == total - 1_946_624 + 2 * 768


@torch.no_grad()
def test_mtloras_paths_are_its_equations() -> None:
    """A tapped block by hand: shared and own outputs of proj, fc1 and fc2, each path with its own residual."""
    built, maps = own_maps("mtlora", rank=3, task_rank=2, scale=2.0, task_scale=3.0)
    assert built.shape.tapped == (0, 2)
    fork = built.sites("block")[0].module
    block = fork.base
    seen: list[Tensor] = []
    handle = fork.register_forward_hook(lambda module, given, output: seen.extend([given[0], output]))
    built.net.forward_features(images(2))
    handle.remove()
    x, went_on = seen[0], seen[1][:2]

    def linear(module: Any, shared: Tensor, own: Tensor, task: int) -> tuple[Tensor, Tensor]:
        y, mine = module.base(shared), module.own[task]
        return (
            y + 2 * shared @ module.shared.down.T @ module.shared.up.T,
            y + 3 * own @ mine.down.T @ mine.up.T,
        )

    for task in range(2):
        attention = block.attn
        q, k, v = attention.qkv(block.norm1(x)).reshape(2, 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) / 4).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).reshape(2, 17, 48)
        shared, own = linear(attention.proj, mixed, mixed, task)
        shared, own = x + shared, x + own
        hidden, mine = linear(block.mlp.fc1, block.norm2(shared), block.norm2(own), task)
        hidden, mine = linear(block.mlp.fc2, F.gelu(hidden), F.gelu(mine), task)
        torch.testing.assert_close(went_on, shared + hidden, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps[task][0], as_map(built, own + mine), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(maps[0][0], maps[1][0], atol=0.01)


@pytest.mark.parametrize("name", ["mtlora"])
def test_at_the_start_every_task_has_the_backbones_maps_on_swin(name: str) -> None:
    built, bare = installed(METHODS.get(name)(), "swin_of_tasks").eval(), make("swin")
    maps = feature_maps(built, (images(2),), built.shape.tapped)
    for found, expected in zip(maps, feature_maps(bare, (images(2),), built.shape.tapped), strict=True):
        torch.testing.assert_close(found, expected.repeat(2, 1, 1, 1))


@torch.no_grad()
@pytest.mark.parametrize("lite", [False, True])
def test_vmt_adapters_maps_are_its_equation(lite: bool) -> None:
    built, maps = own_maps("vmt_adapter", bottleneck=5, lite=lite)
    sites = built.sites("block")
    x = built.net.norm_pre(built.net._pos_embed(built.net.patch_embed(images(2))))
    for layer, site in enumerate(sites):
        # the middle block takes what goes on of the first
        taps = site.module if layer != 1 else site.module.base
        block, adapter = taps.base, taps.adapter if layer != 1 else taps.taps[0]
        x = x + block.attn(block.norm1(x))
        hidden = F.relu(x @ adapter.down.weight.T + adapter.down.bias)
        up = adapter.down.weight.T if lite else adapter.up
        after = x + block.mlp(block.norm2(x))
        if layer != 1:
            for task in range(2):
                own = site.module.factor[task] * hidden + site.module.shift[task]
                expected = as_map(built, after + 0.1 * (own @ up.T + adapter.bias))
                torch.testing.assert_close(maps[task][layer // 2], expected, rtol=1e-4, atol=1e-4)
        x = after + 0.1 * (hidden @ up.T + adapter.bias)
    assert not torch.allclose(maps[0][1], maps[1][1], atol=1e-3)


def test_vmt_adapters_size_is_about_the_published_share() -> None:
    """About 1 % of the backbone, and 0.36 % for the lite form (abstract; the network is not named there)."""
    size = on_swin("base").shape.num_parameters
    assert 0.005 < trained("vmt_adapter", on_swin("base")) / size < 0.02
    assert 0.003 < trained("vmt_adapter", on_swin("base"), lite=True, bottleneck=32) / size < 0.01


@torch.no_grad()
def test_hyperprompt_makes_the_prefixes_of_every_task_and_layer() -> None:
    """Each task alone through the network, with prefixes by hand."""
    built, maps = own_maps("hyperprompt_global", num_tokens=3, bottleneck=4, embedding=5)
    made = built.shared["hyper_48"]
    for task in range(2):
        x = images(2)
        net = built.net.base
        x = net.norm_pre(net._pos_embed(net.patch_embed(x)))
        for layer, block in enumerate(net.blocks):
            hook = block.attn.hooks[0]
            z = F.layer_norm(
                torch.cat([made.of_task[task], made.of_layer[hook.layer]]), (10,), made.norm.weight, made.norm.bias
            )
            q, k, v = block.attn.base.qkv(block.norm1(x)).reshape(2, 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
            ahead = {}
            for name in ("of_keys", "of_values"):
                down = (made.down[name] @ z).view(4, 48) / 48**0.5
                up = (made.up[name] @ z).view(48, 4) / 2
                ahead[name] = (
                    (F.relu(made.prompts[task] @ down.T) @ up.T).view(3, 3, 16).transpose(0, 1).expand(2, -1, -1, -1)
                )
            k, v = torch.cat([ahead["of_keys"], k], dim=2), torch.cat([ahead["of_values"], v], dim=2)
            mixed = ((q @ k.transpose(-2, -1)) / 4).softmax(-1) @ v
            x = x + block.attn.base.proj(mixed.transpose(1, 2).reshape(2, 17, 48))
            x = x + block.mlp(block.norm2(x))
            if layer != 1:
                torch.testing.assert_close(maps[task][layer // 2], as_map(built, x), rtol=1e-4, atol=1e-4)
    layers = [block.attn.hooks[0].layer for block in built.net.base.blocks]
    assert sorted(layers) == [0, 1, 2] and not torch.allclose(maps[0][0], maps[1][0], atol=1e-3)


@torch.no_grad()
def test_polyhistors_adapters_are_scaled_templates() -> None:
    """On Swin, where the second stage is twice as wide as the templates."""
    built, maps = own_maps("polyhistor", "swin", bottleneck=3, rank=2, embedding=4)
    network = built.shared["hyper"]
    tap = built.sites("block")[-1].module.taps[1]
    assert tap.place == 5 and tap.scale_down.shape == (2, 2)
    x = torch.randn(2, 4, 4, 48)
    for task in range(2):
        z = torch.cat([network.of_task[task], network.of_place[5]])
        down = (network.down @ (network.mix_down @ z)).view(3, 24)
        up = (network.up @ (network.mix_up @ z)).view(24, 3)
        kron = torch.einsum("ab,cd->acbd", tap.scale_down, down).reshape(6, 48)
        expected = F.gelu(x @ kron.T) @ torch.einsum("ab,cd->acbd", tap.scale_up, up).reshape(48, 6).T
        torch.testing.assert_close(tap(x.repeat(2, 1, 1, 1))[2 * task : 2 * task + 2], expected)
    assert not torch.allclose(maps[0][0], maps[1][0], atol=1e-3)


def test_ditask_trains_cells_less_one_for_each_matrix() -> None:
    retrained = 1_601_082
    assert trained("ditask", on_swin("tiny")) == 63 * 4 * 12 + 4 * 3 * 3 * 4 + retrained


def test_velocities_are_those_of_difws_default_basis() -> None:
    """Slopes and offsets of the basis written out as in its code: column k rises in cells below k, falls in cell k."""
    theta = torch.linspace(-1, 1, 4, dtype=torch.float64)
    cells, width = 5, 0.2
    slopes, offsets = torch.zeros(cells).double(), torch.zeros(cells).double()
    for k in range(1, cells):
        column = torch.zeros(cells, 2).double()
        column[:k, 0] = width
        column[k] = torch.tensor([-k * width, k * (k + 1) * width**2], dtype=torch.float64)
        column /= column.abs().max()
        slopes += theta[k - 1] * column[:, 0]
        offsets += theta[k - 1] * column[:, 1]
    found = velocity(theta)
    for cell in range(cells):
        for end in (cell, cell + 1):
            assert found[end].item() == pytest.approx((slopes[cell] * end * width + offsets[cell]).item(), abs=1e-12)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_the_flow_solves_its_differential_equation(size: float) -> None:
    """Against many small Runge-Kutta steps; in order, within [0, 1], with the gradient of finite differences."""
    torch.manual_seed(3)
    v = velocity(size * torch.randn(7, dtype=torch.float64))
    x = torch.linspace(0, 1, 41, dtype=torch.float64)

    def speed(at: Tensor) -> Tensor:
        cell = (at * 8).long().clamp(0, 7)
        return v[cell] + (v[cell + 1] - v[cell]) * (at * 8 - cell)

    y, steps = x.clone(), 4000
    for _ in range(steps):
        h = 1 / steps
        a = speed(y)
        b = speed(y + h / 2 * a)
        c = speed(y + h / 2 * b)
        y = (y + h / 6 * (a + 2 * b + 2 * c + speed(y + h * c))).clamp(0, 1)
    found = flow(x, v)
    torch.testing.assert_close(found, y, atol=2e-4, rtol=0)
    assert (found.diff() > 0).all() and found[0] == 0 and found[-1] == 1
    inside = (v[1:-1] + 0.01).requires_grad_()
    edge = torch.zeros(1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: flow(x[1:-1:7], torch.cat([edge, v, edge])), inside, atol=1e-4)


@pytest.mark.parametrize("cells", [5, 7])
def test_a_flow_keeps_double_precision_in_any_number_of_cells(cells: int) -> None:
    """Along a velocity a + b x, the same line in all cells, x goes to (x + a / b) exp(b) - a / b."""
    a, b = 0.1, 0.3
    x = torch.linspace(0, 0.6, 31, dtype=torch.float64)
    found = flow(x, a + b * torch.linspace(0, 1, cells + 1, dtype=torch.float64))
    torch.testing.assert_close(found, (x + a / b) * math.exp(b) - a / b, rtol=0, atol=1e-13)


@torch.no_grad()
def test_ditasks_paths_are_its_equations() -> None:
    """A tapped block by hand: every path has weights of its own, all with the frozen singular vectors."""
    built, maps = own_maps("ditask", cells=6, task_cells=3)
    fork = built.sites("block")[0].module
    block = fork.base
    seen: list[Tensor] = []
    handle = fork.register_forward_hook(lambda module, given, output: seen.extend([given[0], output]))
    built.net.forward_features(images(2))
    handle.remove()
    x, went_on = seen[0], seen[1][:2]

    def weight(frozen: Tensor, theta: Tensor) -> Tensor:
        u, s, vt = torch.linalg.svd(frozen, full_matrices=False)
        where = flow(torch.linspace(0, 1, len(s)), velocity(theta[0])) * (len(s) - 1)
        low = where.floor().clamp(max=len(s) - 2).long()
        return u @ torch.diag(s[low] + (s[low + 1] - s[low]) * (where - low)) @ vt

    def path(task: int | None) -> Tensor:
        def linear(module: Any, x: Tensor) -> Tensor:
            theta = module.theta if task is None else module.own[task]
            return F.linear(x, weight(module.base.weight, theta), module.base.bias)

        qkv = block.attn.qkv
        parts = [weight(part, qkv.theta) for part in qkv.base.weight.chunk(3)]
        heads = F.linear(block.norm1(x), torch.cat(parts), qkv.base.bias)
        q, k, v = heads.reshape(2, 17, 3, 3, 16).permute(2, 0, 3, 1, 4)
        mixed = (((q @ k.transpose(-2, -1)) / 4).softmax(-1) @ v).transpose(1, 2).reshape(2, 17, 48)
        y = x + linear(block.attn.proj, mixed)
        return y + linear(block.mlp.fc2, F.gelu(linear(block.mlp.fc1, block.norm2(y))))

    torch.testing.assert_close(went_on, path(None), rtol=1e-3, atol=1e-4)
    for task in range(2):
        torch.testing.assert_close(maps[task][0], as_map(built, path(task)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("filters", ["dynamic", "static"])
def test_tadformers_count_on_swin_follows_from_its_parts(filters: str) -> None:
    """Rank 16: pairs as mtlora's shared ones, filters of 12 linear maps, prompts and their merging, norms, gates."""
    pairs, retrained = 1_406_976 - 4 * 4 * 12 * 96 * (1 + 2 + 4 + 8), 1_601_082 - 1_548_288
    each = {"dynamic": 9 * 16**2 + 27 * 16, "static": 4 * 160}[filters]
    prompts = 4 * 96 + 2 * 96**2 * (1 + 4 + 16)
    own = 2 * 96 * (1 + 2 + 4 + 8) + 4
    found = trained("tadformer", on_swin("tiny"), rank=16, filters=filters)
    assert found == pairs + 12 * each + prompts + own + retrained


def test_a_dynamic_filters_kernels_are_made_of_the_maps_means() -> None:
    torch.manual_seed(0)
    made, maps = DynamicFilter(3), torch.randn(2, 3, 4, 5)
    found = made(maps)
    for sample in range(2):
        raw = F.conv2d(maps[sample].mean((1, 2)).view(1, 3, 1, 1), made.make.weight, made.make.bias).view(3, 9)
        kernels = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True)
        kernels = kernels * made.std.view(3, 9) + made.mean.view(3, 9)
        for channel in range(3):
            one = F.conv2d(maps[sample, channel][None, None], kernels[channel].view(1, 1, 3, 3), padding=1)
            torch.testing.assert_close(found[sample, channel], one[0, 0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tadformers_paths_are_its_equations() -> None:
    """The first block of the plain transformer by hand, with filters that are convolutions."""
    built, maps = own_maps("tadformer", rank=3, scale=2.0, filters="static")
    wrapped = built.sites("block")[0].module
    block, prompts = wrapped.base, wrapped.start.expand(2, -1, -1)
    bare = make("vit_cls").net
    x = bare.norm_pre(built.net._pos_embed(built.net.patch_embed(images(2))))
    out, handed = wrapped(x)

    def shared(module: Any, x: Tensor) -> Tensor:
        return module.base(x) + 2 * x @ module.pair.down.T @ module.pair.up.T

    def own(module: Any, y: Tensor, x: Tensor, task: int) -> Tensor:
        low = x @ module.pair.down.T
        patches = module.filters[task](low[:, 1:].transpose(1, 2).unflatten(2, (4, 4))).flatten(2).transpose(1, 2)
        single = module.filters[task](low[:, 0, :, None, None])[:, None, :, 0, 0]
        return y + 2 * torch.cat([single, patches], dim=1) @ module.pair.up.T

    tokens = torch.cat([block.norm1(prompts), block.norm1(x)], dim=1)
    q, k, v = shared(block.attn.qkv, tokens).reshape(2, 19, 3, 3, 16).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1)
    mixed = ((scores / 4).softmax(-1) @ v).transpose(1, 2).reshape(2, 19, 48)
    looked = shared(block.attn.proj, mixed)
    stream = x + looked[:, 2:]
    y1 = block.mlp.fc1.base(block.norm2(stream))
    hidden = F.gelu(shared(block.mlp.fc1, block.norm2(stream)))
    y2 = block.mlp.fc2.base(hidden)
    torch.testing.assert_close(out[:2], stream + shared(block.mlp.fc2, hidden), rtol=1e-4, atol=1e-4)
    after = shared(block.mlp.fc2, F.gelu(shared(block.mlp.fc1, block.norm2(looked[:, :2]))))
    torch.testing.assert_close(handed, prompts + after, rtol=1e-4, atol=1e-4)
    for task in range(2):
        weight = F.gelu(scores[:, :, task, 2:]).repeat_interleave(16, dim=1).transpose(1, 2)
        skip = weight * mixed[:, 2:]
        normed = F.layer_norm(skip + mixed[:, 2:], (48,), wrapped.prompt_norm.weight, wrapped.prompt_norm.bias)
        path = x + own(block.attn.proj, block.attn.proj.base(mixed[:, 2:]), normed, task)
        mine = F.gelu(own(block.mlp.fc1, y1, block.norm2(path), task))
        path = path + own(block.mlp.fc2, y2, mine, task)
        gate = wrapped.gate.sigmoid()
        torch.testing.assert_close(maps[task][0], as_map(built, gate * skip + (1 - gate) * path), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_windows_of_a_block_go_back_where_they_were() -> None:
    """Against timm's own attention, shifted windows and positions included."""
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=32, window_size=4, depths=(2, 1))
    for block, size in ((net.layers[0].blocks[1], 8), (net.layers[1].blocks[0], 4)):
        x = torch.randn(2, size, size, block.dim)
        windows, bias, back = windowed(block, x)
        q, k, v = block.attn.qkv(windows).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * block.attn.scale) @ k.transpose(-2, -1)
        scores = scores + bias.repeat(len(scores) // len(bias), 1, 1, 1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(back(block.attn.proj(mixed)), block._attn(x))


@torch.no_grad()
def test_ve_prompts_maps_look_at_exemplars_of_their_task() -> None:
    built, maps = own_maps("ve_prompt", num_exemplars=2)
    block = built.sites("block")[0].module
    # four classes and four ranges, two images each
    assert [len(block.get_buffer(f"exemplars_{task}")) for task in range(2)] == [8, 8]
    x = built.net.norm_pre(built.net._pos_embed(built.net.patch_embed(images(2))))
    y = block.base(x)
    for task in range(2):
        tokens = block.get_buffer(f"exemplars_{task}")
        q = F.layer_norm(y, (48,), block.norm.weight, block.norm.bias) @ block.query.weight.T
        attention = (q @ (tokens @ block.key.weight.T).T / 48**0.5).softmax(-1)
        found = attention @ (tokens @ block.value.weight.T) @ block.output.weight.T
        expected = as_map(built, y + block.gate[task] * found)
        torch.testing.assert_close(maps[task][0], expected, rtol=1e-4, atol=1e-4)


def test_exemplars_are_mean_features_of_the_first_images_that_have_a_class() -> None:
    method, kept = METHODS.get("ve_prompt")(num_exemplars=2), {}
    features, classes = torch.randn(3, 5, 2, 2), torch.tensor([[[0, 1], [1, -1]], [[1, 1], [1, 1]], [[0, 1], [2, 2]]])
    method._keep(kept, 0, 7, features, classes)
    zero, one, two = kept[0, 7]
    torch.testing.assert_close(torch.stack(zero), torch.stack([features[0, :, 0, 0], features[2, :, 0, 0]]))
    torch.testing.assert_close(one[1], features[1].mean(dim=(1, 2)))
    assert (len(one), len(two)) == (2, 1)


def test_a_task_without_examples_is_named() -> None:
    built = make("vit_cls_of_tasks")
    batch = {"class_map": torch.zeros(2, 32, 32, dtype=torch.uint8), "depth": torch.full((2, 32, 32), torch.nan)}
    evidence = SimpleNamespace(
        backbone=built,
        targets=("class_map", "depth"),
        images=lambda batch_size: iter([batch]),
        maps=lambda batch: [torch.randn(2, 5, 4, 4) for _ in built.shape.tapped],
    )
    with pytest.raises(BadInput, match=r"no example in the depth .* leave that task out of task\.tasks"):
        METHODS.get("ve_prompt")().observe(evidence)


def test_numbers_and_directions_are_told_apart_as_classes() -> None:
    edges: dict[str, Tensor] = {}
    depth = torch.arange(8.0).view(1, 2, 4)
    depth[0, 0, 0] = torch.nan
    unknown = torch.full_like(depth, torch.nan)
    assert (classes_of(unknown, edges, "depth") == -1).all() and not edges, (
        "ranges are those of the first that is known"
    )
    assert classes_of(depth, edges, "depth").tolist() == [[[-1, 0, 0, 1], [1, 2, 3, 3]]]
    assert (classes_of(unknown, edges, "depth") == -1).all()
    assert classes_of(torch.full((1, 1, 1), 100.0), edges, "depth").item() == 3
    assert classes_of(torch.tensor([[[255, 2]]], dtype=torch.uint8), edges, "class_map").tolist() == [[[-1, 2]]]
    normals = torch.tensor([[0.5, -0.5], [0.5, 0.5], [-0.7, torch.nan]]).view(1, 3, 1, 2)
    assert classes_of(normals, edges, "normals").tolist() == [[[3, -1]]]


def test_what_is_decayed_is_that_of_the_released_optimisers() -> None:
    """They leave out what has one axis: DiTASK's numbers are rows [1, n], TADFormer's filter norms are vectors."""

    def decayed(name: str) -> set[str]:
        built = installed(METHODS.get(name)(), "vit_cls_of_tasks")
        groups = param_groups(built.trainable, [], OptimSpec(weight_decay=0.1))
        return {tensor for group in groups if group["weight_decay"] for tensor in group["names"]}

    thetas = {name.split(".")[-1] for name in decayed("ditask") if "theta" in name or ".own." in name}
    assert thetas == {"theta", "0", "1"}
    of_filters = {name.rpartition(".filters.0.")[2] for name in decayed("tadformer") if ".filters." in name}
    assert of_filters == {"make.weight"}
