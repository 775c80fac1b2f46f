"""MmAP: both towers written out with the prompts of each task, how tasks are grouped, and the count."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from peftbench.backbones.pair import Pair, both_shapes
from peftbench.backbones.tokenizers import micro_words, rows_of
from peftbench.contracts.backbones import PAIR, make, samples
from peftbench.foundation.errors import NotApplicable
from peftbench.interventions.aligned import Aligned
from peftbench.methods.base import install
from peftbench.methods.mmap import MmAP, groups_of
from tests.golden.test_hipro import NAMES, TASKS, several

# tasks 0 and 2 are group 3, task 1 is group 4
MEMBERS = torch.tensor([[3, 0], [4, 1], [3, 2]])


def seen(pair: Pair) -> SimpleNamespace:
    batches = [{"image": samples(pair, 9, seed=s).double(), "label": torch.arange(9) % len(NAMES)} for s in (1, 2)]
    return SimpleNamespace(backbone=pair, images=lambda size: iter(batches))


@torch.no_grad()
def test_prompts_of_the_group_and_of_the_task_stand_in_both_towers() -> None:
    """Depth 2 of 3 image and 2 text blocks, 2 x 3 tokens of each unit, so 12 in all."""
    pair = several()
    install(MmAP(source_tokens=3, copies=2, depth=2), pair, 0, {"members": MEMBERS})
    pair.double()
    torch.manual_seed(1)
    for _, tensor in pair.trainable:
        tensor.add_(0.1 * torch.randn(tensor.shape, dtype=tensor.dtype))
    # the tower comes ahead of the texts of classes, which hold the first
    second, first = pair.all_of(Aligned)
    assert first.source.shape == (5, 3, 16) and first.to_text.shape == (5, 2, 2) and first.to_image.shape == (5, 2, 3)

    def prompts(of: Aligned, side: str, task: int) -> Tensor:
        units = MEMBERS[task].tolist()
        return torch.cat([torch.kron(getattr(of, side)[unit], of.source[unit]) for unit in units])

    text, image, spec, words = pair.text.net, pair.image.net, pair.text.spec, micro_words()
    images, now = samples(pair).double(), torch.tensor([2, 0, 1, 2])
    blocks = [getattr(block, "base", block) for block in image.blocks]
    x = image._pos_embed(image.patch_embed(images))
    x = blocks[0](torch.cat([x, torch.stack([prompts(first, "to_image", int(task)) for task in now])], dim=1))
    x = torch.cat([x[:, :-12], torch.stack([prompts(second, "to_image", int(task)) for task in now])], dim=1)
    f = pair.image_projection(image.norm(blocks[2](blocks[1](x)))[:, 0])
    blocks = [getattr(block, "base", block) for block in text.blocks]
    # "red" stands for each of the twelve
    ids = rows_of(spec, [[*words.pieces("red") * 12, *words.pieces(f"{name}.")] for name in NAMES])
    y = text.token_embed(ids)
    y[:, 1:13] = torch.stack([prompts(first, "to_text", task) for task in TASKS])
    y = blocks[0](y + text.pos_embed[: ids.shape[1]], is_causal=True)
    y[:, 1:13] = torch.stack([prompts(second, "to_text", task) for task in TASKS])
    y = text.norm(blocks[1](y, is_causal=True))
    w = pair.text_projection(y[torch.arange(6), ids.argmax(1)])
    expected = pair.match.logit_scale.exp() * F.normalize(f, dim=1) @ F.normalize(w, dim=1).T
    assert pair.inputs == ("image", "task")
    torch.testing.assert_close(pair(images, now), expected, rtol=0, atol=1e-12)
    with pytest.raises(NotApplicable, match="told the task of each image"):
        pair(images)


def test_the_tree_of_tasks_is_cut_at_the_number_of_groups() -> None:
    alike = torch.eye(4)
    for a, b, value in ((0, 3, 0.9), (1, 2, 0.5), (0, 1, 0.2)):
        alike[a, b] = alike[b, a] = value
    found = [groups_of(alike, number).tolist() for number in (1, 2, 3, 4)]
    assert found == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 2, 0], [0, 1, 2, 3]]


def test_tasks_are_alike_by_the_cosine_of_the_gradients_of_shared_prompts() -> None:
    method, pair = MmAP(source_tokens=2, depth=1), several()
    torch.manual_seed(3)
    found = method.observe(seen(pair))  # type: ignore[arg-type]
    assert not pair.trainable and found["members"][:, 1].tolist() == [0, 1, 2]
    for groups, numbers in ((1, 1), (2, 2), (3, 3)):
        members = replace(method, groups=groups).observe(seen(pair))["members"]  # type: ignore[arg-type]
        assert sorted(set(members[:, 0].tolist())) == list(range(3, 3 + numbers))
    with pytest.raises(
        NotApplicable, match=r"method\.groups = 4 is more than the 3 tasks of this data; take 3 or fewer"
    ):
        replace(method, groups=4).observe(seen(pair))  # type: ignore[arg-type]
    torch.manual_seed(3)
    method._attach(pair, torch.zeros(3, 1, dtype=torch.int64))
    trained = [tensor for _, tensor in pair.trainable]
    slopes = []
    for task in range(3):
        mine = [number for number, other in enumerate(TASKS) if other == task]
        losses = []
        for batch in seen(pair).images(1):
            rows = torch.isin(batch["label"], torch.tensor(mine))
            logits = pair(batch["image"][rows], torch.full((int(rows.sum()),), task))[:, mine]
            losses.append(F.cross_entropy(logits, batch["label"][rows] - mine[0], reduction="none"))
        grads = torch.autograd.grad(torch.cat(losses).mean(), trained)
        slopes.append(torch.cat([slope.flatten() for slope in grads]))
    expected = F.cosine_similarity(torch.stack(slopes)[:, None], torch.stack(slopes)[None], dim=2)
    torch.testing.assert_close(found["affinity"].double(), expected.double(), rtol=0, atol=1e-5)


def test_a_unit_has_j_times_b_d_plus_m_times_both_widths_over_d() -> None:
    image, text = both_shapes(make(PAIR).shape)
    clip = replace(image, width=768, depth=12, text=replace(text, width=512, depth=12))
    # J (b d + m (512 + 768) / d), d = 256: one unit of one task; 4 + 2 of four tasks; 2 + 2 of two
    for tasks, units in ((1, 1), (4, 6), (2, 4)):
        shape = replace(clip, num_tasks=tasks)
        assert MmAP().expected_params(shape) == units * 9 * (8 * 256 + 5)
        assert MmAP(source_tokens=4, copies=4, depth=3).expected_params(shape) == units * 3 * (4 * 256 + 20)
