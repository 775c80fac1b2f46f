"""What the training step asks of every method, so that it can be recorded once and replayed."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from peftbench.backbones.base import Backbone
from peftbench.backbones.pair import Pair
from peftbench.cells.last_block import last_block
from peftbench.cells.train import against_capture_of_passes
from peftbench.contracts.backbones import PAIR, findings, installed, make, samples, suited
from peftbench.contracts.replaying import NotReplayable, Replayed, Watched
from peftbench.contracts.test_methods import default_refusal, fitting, nudge
from peftbench.foundation.seeding import deterministic
from peftbench.interventions import diffeomorphism
from peftbench.methods.base import METHODS, Method, install
from peftbench.objectives import base as objectives
from peftbench.objectives.base import OBJECTIVES, Objective
from peftbench.objectives.none import NoObjective
from peftbench.tasks.base import Classes, Task
from peftbench.tasks.classification import Classification
from peftbench.tasks.dense import MapTask
from peftbench.tasks.depth import Depth
from peftbench.tasks.detection import Detection
from peftbench.tasks.human_parts import HumanParts
from peftbench.tasks.marks import Edges, Saliency
from peftbench.tasks.model import TaskModel
from peftbench.tasks.normals import Normals
from peftbench.tasks.promptable import Promptable, Region
from peftbench.tasks.retrieval import Retrieval
from peftbench.tasks.segmentation import Segmentation
from peftbench.tasks.several import Several
from peftbench.tasks.text_classification import TextClassification
from peftbench.tasks.vqa import VQA
from peftbench.train import evaluate, loop, step
from peftbench.train.batches import Batch, evaluation_batches, training_batches
from peftbench.train.blocks import recomputed
from peftbench.train.capture import CAPTURED
from peftbench.train.evaluate import Measured, Passes
from peftbench.train.loop import fit
from peftbench.train.optim import DeviceRates, param_groups, trained_of
from peftbench.train.options import OptimSpec, TrainSpec

OPTIM = OptimSpec(lr=0.01, warmup_epochs=1, clip_norm=1.0)
# on a CPU one step as it is, one that is recorded, one from the record
THREE_EPOCHS = TrainSpec(epochs=3, batch_size=8)
MOVED = TrainSpec(epochs=3, batch_size=8, augment="scale_crop_flip", photometric=True, precision="bf16")
AUGMENTED = [
    dataclasses.replace(MOVED, cat_max_ratio=0.75),
    dataclasses.replace(MOVED, augment="scale_rotate_flip"),
]
# the objective's other half begins where steps are done from the record
FOUR_EPOCHS = TrainSpec(epochs=4, batch_size=8)
CHANGING = {"dpt": {"apart_epochs": 3}}
IN_PAIRS = {"dpt": "dpt", "kgcoop": "coop", "prograd": "coop", "promptsrc": "ivlp"}
CLASSES = ("a", "b", "c")
OF_MAPS = [Segmentation, HumanParts, Depth, Normals, Edges, Saliency]
OF_OTHER_TARGETS = [Detection(), Promptable(), Region(), Retrieval(), VQA(), VQA(fusion="product")]
# options under which a step draws, or writes into what trains
DRAWN: list[tuple[str, dict[str, Any]]] = [
    ("oft", {"block_size": 4, "block_dropout": 0.5}),
    ("oft", {"block_size": 4, "coft": True, "eps": 1e-3}),
    ("boft", {"block_size": 4, "num_factors": 3, "block_dropout": 0.5}),
    ("loha", {"rank_dropout": 0.3, "module_dropout": 0.3}),
    ("lokr", {"rank_dropout": 0.3, "module_dropout": 0.3, "rank_dropout_scale": True}),
]
# the plain transformer, and the ones whose blocks are other code
PLACES = ("vit_cls", "eva_rope", "swin", "convnext")


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, steps and passes are those of a GPU, with records in the place of graphs."""
    monkeypatch.setattr(step, "rates", DeviceRates)
    monkeypatch.setattr(diffeomorphism, "finished", lambda leaves: False)
    for module, reason in ((loop, "reason_against"), (evaluate, "reason_against_passes")):
        monkeypatch.setattr(module, "Graphs", Replayed)
        monkeypatch.setattr(module, reason, lambda *_: "")


def set_dropout(backbone: Backbone, rate: float) -> Backbone:
    """Every dropout there is drops at `rate`, and every drop path."""
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        if type(module).__name__ == "DropPath":
            module.drop_prob = rate
    return backbone


def task_of(backbone: Backbone) -> Task:
    """One that the backbone serves."""
    if len(backbone.towers) > 1:
        return TextClassification()
    if backbone.shape.tasks == 1:
        return Classification()
    return Several(tasks=["segmentation", "depth"], num_maps=len(backbone.shape.tapped))


def data_of(backbone: Backbone, task: Task, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random images, or clips, with all that the task asks for."""
    chance = torch.Generator().manual_seed(1)
    *frames, _, height, width = backbone.sample_shape
    pixels = torch.randint(256, (number, *frames, height, width, 3), dtype=torch.uint8, generator=chance)
    classes = torch.randint(3, (number, height, width), generator=chance)
    normals = F.normalize(torch.randn(number, 3, height, width, generator=chance), dim=1)
    targets = {
        "label": torch.arange(number) % 3,
        "class_map": classes.where(classes > 0, 255),
        "human_parts": classes,
        "depth": torch.rand(number, height, width, generator=chance),
        "normals": normals,
        "edges": classes.clamp(max=1),
        "saliency": classes.clamp(max=1),
        "boxes": boxes_of(number, height, width, chance),
        "captions": torch.arange(number) % 3 + 1,
        "answers": torch.randint(-1, 3, (number, 10), generator=chance),
    }
    inputs = {"image": pixels}
    if isinstance(backbone, Pair) and task.reads_texts:
        shapes = ("circle", "star", "ring", "drop")
        read = [[f"{colour} {shapes[row % 4]}" for colour in ("red", "blue", "green")] for row in range(number)]
        inputs["text"] = backbone.written(read)
    return inputs, {name: targets[name] for name in task.targets}


def boxes_of(number: int, height: int, width: int, chance: torch.Generator) -> Tensor:
    """Two boxes an image, and a row without any: [number, 3, 6]."""
    corners = torch.rand(number, 3, 2, generator=chance) * 0.4 * torch.tensor([width, height])
    sides = (0.2 + 0.4 * torch.rand(number, 3, 2, generator=chance)) * torch.tensor([width, height])
    labels = torch.randint(3, (number, 3, 1), generator=chance)
    boxes = torch.cat([corners, corners + sides, labels, torch.zeros(number, 3, 1)], dim=2)
    boxes[:, 2] = 0
    return boxes


class Outputs:
    """A meter that keeps all outputs."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        self.seen += [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]

    def result(self) -> Measured:
        return Measured({"n": 0})


def under(name: str) -> tuple[Objective, Method, str]:
    """An objective, a method that goes with it, and on what."""
    objective = OBJECTIVES.get(name)(**CHANGING.get(name, {}))
    method = fitting(objective.of_method or IN_PAIRS.get(name, "lora"))
    return objective, method, PAIR if objective.of_pairs else "vit_cls"


def built(method: Method, place: str, task: Task | None, objective: Objective) -> tuple[TaskModel, Task]:
    """A model as a cell has it, and its task: `task`, or one that the backbone serves."""
    backbone = make(place)
    of_objective = objectives.prepare(objective, backbone, len(CLASSES), 0)
    install(method, backbone, 0, findings(method, place))
    own = task or task_of(backbone)
    model = own.model(backbone, Classes(CLASSES), 0)
    model.head = method.on_head(model.head)
    objectives.install(objective, model, of_objective, len(CLASSES))
    return model, own


def captured_as_started(
    method: Method,
    place: str,
    task: Task | None = None,
    train: TrainSpec = THREE_EPOCHS,
    device: str = "cpu",
    objective: Objective | None = None,
) -> bool:
    """Whether a training with validation gives the same curve, outputs and tensors, captured or not."""
    objective = objective or NoObjective()
    number = train.batch_size
    if device == "cuda":
        # graphs come two steps later than records on a CPU; there, a short last step as well
        train, number = dataclasses.replace(train, epochs=train.epochs + 2), number + number // 2

    def run(against: str) -> tuple[Any, list[Tensor]]:
        model, own = built(method, place, task, objective)
        backbone = set_dropout(model.backbone, 0.2)
        model.to(device)
        data = data_of(backbone, own, number)
        batches = training_batches(*data, train, num_classes=3, seed=0, device=device)
        shown = evaluation_batches(*data, train, batch_size=8, device=device)
        passes = Passes(model, shown, train.precision, against or against_capture_of_passes(backbone))
        meter = Outputs()
        head = trained_of(model.head)
        groups = param_groups(model.added, head, OPTIM)

        def validate() -> float:
            passes.measure(meter)
            return 0.0

        loss_fn = objective.loss_fn(model, own.loss_fn(train, model.inputs))
        objective.before_training(model, number)
        block = last_block(model, loss_fn, batches, train)
        with block.in_use(), nullcontext() if device == "cuda" else Watched():
            result = fit(
                *(model, loss_fn, batches, validate, OPTIM, train, groups, 0),
                on_epoch=lambda row: objective.after_epoch(model, row["epoch"] / train.epochs),
                against_capture=against,
                before_epochs=lambda survey: method.before_epochs(backbone, survey, 0),
            )
        assert result.capture == (against or CAPTURED)
        return result.curve, [*meter.seen, *model.state_dict().values()]

    (curve, tensors), (expected_curve, expected) = run(""), run("not here")
    return curve == expected_curve and all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))


def method_on(name: str, backbone: str) -> Method:
    if reason := default_refusal(name, backbone):
        pytest.skip(reason)
    return fitting(name)


@pytest.mark.parametrize("name", METHODS.names())
def test_steps_done_again_without_python_are_the_steps_unless_the_method_says_otherwise(
    name: str, as_on_cuda: None
) -> None:
    place = suited(METHODS.get(name), "vit_cls")
    method = method_on(name, place)
    if method.trains_nothing and method.of_pairs:
        pytest.skip("nothing trains")
    try:
        same = captured_as_started(method, place)
    except NotReplayable:
        if method.steps_alike:
            raise
        same = False
    assert same == method.steps_alike


@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_steps_under_options_that_draw_are_done_again_to_the_bit(
    name: str, options: dict[str, Any], as_on_cuda: None
) -> None:
    assert captured_as_started(METHODS.get(name)(**options), "vit_cls")


@pytest.mark.parametrize("name", ["lora", "vpt_deep", "lst"])
def test_steps_whose_last_block_runs_for_the_read_token_are_done_again_to_the_bit(name: str, as_on_cuda: None) -> None:
    train = dataclasses.replace(THREE_EPOCHS, last_block="read")
    assert captured_as_started(fitting(name), "vit_cls", train=train)


@pytest.mark.parametrize("kind", OF_MAPS)
def test_steps_of_tasks_with_maps_are_done_again_to_the_bit(kind: type[MapTask], as_on_cuda: None) -> None:
    assert captured_as_started(fitting("lora"), "vit_cls", kind(num_maps=2), MOVED)


def test_steps_with_an_auxiliary_head_are_done_again_to_the_bit(as_on_cuda: None) -> None:
    assert captured_as_started(fitting("lora"), "vit_cls", Segmentation(num_maps=2, auxiliary=0.4), MOVED)


@pytest.mark.parametrize("train", AUGMENTED, ids=lambda train: train.augment)
def test_steps_on_chosen_windows_and_turned_maps_are_done_again_to_the_bit(train: TrainSpec, as_on_cuda: None) -> None:
    assert captured_as_started(fitting("lora"), "vit_cls", Segmentation(num_maps=2), train)


@pytest.mark.parametrize("task", OF_OTHER_TARGETS, ids=lambda task: task.name + getattr(task, "fusion", ""))
def test_steps_of_tasks_with_boxes_prompts_or_texts_are_done_again_to_the_bit(task: Task, as_on_cuda: None) -> None:
    assert captured_as_started(fitting("lora"), PAIR if task.reads_texts else "vit_cls", task)


@pytest.mark.parametrize("towers", [["image"], ["image", "text"]])
def test_steps_on_the_towers_of_a_pair_are_done_again_to_the_bit(towers: list[str], as_on_cuda: None) -> None:
    """What is read of the classes is kept from step to step where no step changes it, and else read in each."""
    method = dataclasses.replace(fitting("lora"), towers=towers)
    assert captured_as_started(method, PAIR)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_steps_under_an_objective_are_done_again_to_the_bit(name: str, as_on_cuda: None) -> None:
    """Over a change between two epochs as well, of what the objective keeps or of its loss."""
    objective, method, place = under(name)
    waits = pytest.raises(NotReplayable, match="waits") if objective.host_waits else nullcontext()
    with waits:
        assert captured_as_started(method, place, objective=objective, train=FOUR_EPOCHS)


@pytest.mark.parametrize("form", ["lazy", "fast"])
def test_steps_of_paces_other_forms_are_done_again_to_the_bit_or_say_that_they_are_not(
    form: str, as_on_cuda: None
) -> None:
    objective = OBJECTIVES.get("pace")(form=form)
    same = captured_as_started(fitting("lora"), "vit_cls", objective=objective, train=FOUR_EPOCHS)
    assert same == objective.steps_alike == (form == "fast")


def test_steps_with_a_head_of_few_bits_are_done_again_to_the_bit(as_on_cuda: None) -> None:
    assert captured_as_started(METHODS.get("bi_adaptformer")(head_bits=1), "vit_cls")


@pytest.mark.parametrize("name", METHODS.names())
def test_blocks_computed_again_change_no_bit(name: str) -> None:
    place = suited(METHODS.get(name), "vit_cls")
    method = method_on(name, place)
    assert alike_computed_again(set_dropout(installed(method, place).train(), 0.2))


@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_blocks_computed_again_under_options_that_draw_change_no_bit(name: str, options: dict[str, Any]) -> None:
    assert alike_computed_again(nudge(installed(METHODS.get(name)(**options), "vit_cls")).train())


def alike_computed_again(backbone: Backbone) -> bool:
    """Whether features and gradients of a pass are the same to the bit, blocks computed again or not."""
    start = {name: tensor.detach().clone() for name, tensor in backbone.trainable}

    def gradients(again: bool) -> list[Tensor]:
        torch.manual_seed(0)
        backbone.load_state_dict(start, strict=False)
        backbone.zero_grad(set_to_none=True)
        with recomputed([site.module for site in backbone.sites("block")] if again else []):
            features: Tensor = backbone(samples(backbone))
        if backbone.trainable:
            (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
        return [features.detach(), *(tensor.grad for _, tensor in backbone.trainable if tensor.grad is not None)]

    once, twice = gradients(again=False), gradients(again=True)
    return len(once) == len(twice) and all(map(torch.equal, once, twice))


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def stepping(name: str, place: str) -> Method:
    """The method, where it has steps that can be captured."""
    method = method_on(name, place)
    if not method.steps_alike or (method.trains_nothing and method.of_pairs):
        pytest.skip("it has no steps that could be captured")
    return method


def on_cuda(*arguments: Any, **options: Any) -> bool:
    with deterministic("cuda"):
        return captured_as_started(*arguments, device="cuda", **options)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("backbone", PLACES)
@pytest.mark.parametrize("name", METHODS.names())
def test_captured_steps_are_the_steps_to_the_bit(name: str, backbone: str) -> None:
    place = suited(METHODS.get(name), backbone)
    assert on_cuda(stepping(name, place), place)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_captured_steps_under_options_that_draw_are_the_steps_to_the_bit(name: str, options: dict[str, Any]) -> None:
    assert on_cuda(METHODS.get(name)(**options), "vit_cls")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", METHODS.names())
def test_captured_steps_in_bf16_are_the_steps_to_the_bit(name: str) -> None:
    place = suited(METHODS.get(name), "vit_cls")
    assert on_cuda(stepping(name, place), place, train=dataclasses.replace(THREE_EPOCHS, precision="bf16"))


@pytest.mark.gpu
@needs_cuda
def test_captured_steps_whose_last_block_runs_for_the_read_token_are_the_steps_to_the_bit() -> None:
    assert on_cuda(fitting("lora"), "vit_cls", train=dataclasses.replace(THREE_EPOCHS, last_block="read"))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("kind", OF_MAPS)
def test_captured_steps_of_tasks_with_maps_are_the_steps_to_the_bit(kind: type[MapTask]) -> None:
    assert on_cuda(fitting("lora"), "vit_cls", kind(num_maps=2), MOVED)


@pytest.mark.gpu
@needs_cuda
def test_captured_steps_with_an_auxiliary_head_are_the_steps_to_the_bit() -> None:
    assert on_cuda(fitting("lora"), "vit_cls", Segmentation(num_maps=2, auxiliary=0.4), MOVED)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("train", AUGMENTED, ids=lambda train: train.augment)
def test_captured_steps_on_chosen_windows_and_turned_maps_are_the_steps_to_the_bit(train: TrainSpec) -> None:
    assert on_cuda(fitting("lora"), "vit_cls", Segmentation(num_maps=2), train)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("task", OF_OTHER_TARGETS, ids=lambda task: task.name + getattr(task, "fusion", ""))
def test_captured_steps_of_tasks_with_boxes_prompts_or_texts_are_the_steps_to_the_bit(task: Task) -> None:
    assert on_cuda(fitting("lora"), PAIR if task.reads_texts else "vit_cls", task)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_captured_steps_under_an_objective_are_the_steps_to_the_bit(name: str) -> None:
    objective, method, place = under(name)
    if objective.host_waits:
        pytest.skip("its steps are never captured")
    assert on_cuda(method, place, objective=objective, train=FOUR_EPOCHS)


@pytest.mark.gpu
@needs_cuda
def test_captured_steps_against_the_logits_of_the_epoch_before_are_the_steps_to_the_bit() -> None:
    assert on_cuda(fitting("lora"), "vit_cls", objective=OBJECTIVES.get("pace")(form="fast"), train=FOUR_EPOCHS)
