"""Answers in words: what is shown in training, what counts in evaluation, and how redundancy is heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftbench.backbones.build import build_backbone
from peftbench.backbones.options import BackboneSpec
from peftbench.backbones.vl_t5 import VLT5
from peftbench.foundation.errors import NotApplicable
from peftbench.methods.base import METHODS, install
from peftbench.objectives.base import OBJECTIVES
from peftbench.tasks.answers import WrittenMeter, drawn_answer
from peftbench.tasks.base import TASKS, Classes
from peftbench.tasks.vqa_written import WritingModel, cells_of
from peftbench.train.options import TrainSpec
from tests.tiny_t5 import write_tiny_t5

ANSWERS = ("red", "dark blue", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5") / "tiny"
    write_tiny_t5(folder, ANSWERS, dropout_rate=0.0)
    return folder


def model_of(folder: Path, method: str = "linear", **options: Any) -> WritingModel:
    backbone, task = build_backbone(BackboneSpec(writer=str(folder))), TASKS.get("vqa_written")()
    task.prepare(backbone, Classes(ANSWERS))
    install(METHODS.get(method)(**options), backbone, 0)
    model = task.model(backbone, Classes(ANSWERS), 0)
    assert isinstance(model, WritingModel)
    return model


def batch_of(model: WritingModel, answers: list[list[int]]) -> dict[str, torch.Tensor]:
    backbone = model.backbone
    assert isinstance(backbone, VLT5)
    pictures = torch.rand(len(answers), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = backbone.written([["the colour of a shape."]] * len(answers))
    return {"image": pictures, "text": texts, "answers": torch.tensor(answers), "index": torch.arange(len(answers))}


def test_one_answer_is_drawn_in_proportion_to_its_score() -> None:
    """Six of ten say 0 (score 1), three say 2 (0.9), one says what is not in the vocabulary."""
    torch.manual_seed(0)
    given = torch.tensor([[0, 0, 0, 2, 0, 2, 0, -1, 2, 0]]).expand(20_000, -1)
    chosen, scores = drawn_answer(given)
    assert {(0, 1.0), (2, 0.9)} == {(int(a), round(float(s), 6)) for a, s in zip(chosen, scores, strict=True)}
    assert (chosen == 2).double().mean() == pytest.approx(0.9 / 1.9, abs=0.012)
    nothing, score = drawn_answer(torch.full((2, 10), -1))
    assert score.tolist() == [0, 0] and nothing.tolist() == [0, 0]


def test_the_loss_is_the_surprise_of_the_shown_answers_tokens(folder: Path) -> None:
    """VL-T5: mean over the tokens of an answer, its end among them, times its score; then the mean over questions."""
    model = model_of(folder)
    batch = batch_of(model, [[1] * 10, [0] * 2 + [-1] * 8, [-1] * 10])
    loss = TASKS.get("vqa_written")().loss_fn(TrainSpec(), model.inputs)(model, batch)
    with torch.no_grad():
        surprise = model(batch["image"][:2], batch["text"][:2], torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((surprise[0].item() + 0.6 * surprise[1].item()) / 3, rel=1e-6)
    net: Any = model.backbone.towers["text"].net
    seen = {}
    handle = net.register_forward_hook(lambda module, args, kwargs, out: seen.update(kwargs, out=out), with_kwargs=True)
    model(batch["image"][:1], batch["text"][:1], torch.tensor([1]))
    handle.remove()
    labels = model.answer_rows[1:2]
    expected = net(encoder_outputs=seen["encoder_outputs"], attention_mask=seen["attention_mask"], labels=labels).loss
    assert surprise[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_written_words_count_as_the_class_of_the_same_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(folder).eval()
    batch = batch_of(model, [[1] * 10, [2] * 2 + [0] * 8, [-1] * 10, [0] * 10])
    words = ["Dark blue.", "two", "red", "a red red"]
    monkeypatch.setattr(type(model.backbone.towers["text"]), "texts", lambda self, rows: words)
    numbers = model(batch["image"], batch["text"])
    assert numbers.tolist() == [1, 2, 0, -1]
    meter = WrittenMeter(len(ANSWERS))
    meter.update(numbers, batch)
    measured = meter.result()
    assert measured.metrics == pytest.approx(
        {"vqa_accuracy": 1.6 / 4, "unanswerable": 0.25, "n": 4, "other_words": 0.25}
    )
    assert measured.predictions is not None and measured.predictions.tolist() == [1, 2, 0, -1]


def test_cells_know_their_sides_and_area() -> None:
    cells = cells_of((2, 4))
    assert cells[5].tolist() == [0.25, 0.5, 0.5, 1.0, 0.125] and cells[:, 4].sum() == 1


def test_steps_teach_it_to_write(folder: Path) -> None:
    """Two pictures, two answers: after some steps of everything it writes both, and did not before."""
    model = model_of(folder, "full", towers=["text"])
    batch = batch_of(model, [[1] * 10, [2] * 10])
    batch["image"][1] = 0
    loss_fn = TASKS.get("vqa_written")().loss_fn(TrainSpec(), model.inputs)
    assert model.eval()(batch["image"], batch["text"]).tolist() != [1, 2]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(30):
        optimiser.zero_grad()
        loss_fn(model.train(), batch).backward()
        optimiser.step()
    assert model.eval()(batch["image"], batch["text"]).tolist() == [1, 2]


def test_redundancy_is_the_mean_of_encoder_and_decoder(folder: Path) -> None:
    """Padding of questions and of answers is left out: batches that are padded further say the same."""
    model = model_of(folder, "mixphm", bottleneck=8, dropout=0.0, num_experts=1, towers=["text"])
    objective = OBJECTIVES.get("mixphm")(weight=1.0)
    objective.install(model, torch.nn.Module())
    batch = batch_of(model, [[1] * 10, [0] * 10])
    plain = TASKS.get("vqa_written")().loss_fn(TrainSpec(), model.inputs)
    asked = objective.loss_fn(model, plain)
    with torch.no_grad():
        added = asked(model, batch) - plain(model, batch)
        longer = torch.nn.functional.pad(batch["text"], (0, 3))
        model.answer_rows = torch.nn.functional.pad(model.answer_rows, (0, 2))
        again = asked(model, batch | {"text": longer}) - plain(model, batch)
    assert added > 0
    assert again.item() == pytest.approx(added.item(), rel=1e-4)


def test_a_backbone_without_a_writer_is_told_what_to_set() -> None:
    with pytest.raises(NotApplicable, match=r"backbone\.writer=FOLDER"):
        TASKS.get("vqa_written")().prepare(build_backbone(BackboneSpec()), Classes(ANSWERS))


def test_other_tasks_with_texts_name_this_one(folder: Path) -> None:
    with pytest.raises(NotApplicable, match="task=vqa_written"):
        TASKS.get("vqa")().prepare(build_backbone(BackboneSpec(writer=str(folder))), Classes(ANSWERS))
