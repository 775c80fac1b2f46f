"""The parts of an advice: its words, the look at the data, the shortlist, the verdict's numbers, the page's tables."""

from __future__ import annotations

import html
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from peftbench.advise import shortlist as shortlist_module
from peftbench.advise.advise import Adviser
from peftbench.advise.folder import check_folder
from peftbench.advise.look import dividing_words, look
from peftbench.advise.page import calibration, confusion, title_of, worst, write_page
from peftbench.advise.race import Entry, Plan, Race, Trial
from peftbench.advise.request import read_request
from peftbench.advise.shortlist import ALWAYS, PER_FAMILY, applicable, shortlist
from peftbench.advise.verdict import Verdict
from peftbench.backbones.source import embedded_file
from peftbench.cli.commands import predict
from peftbench.data.sources.folder import Folder
from peftbench.data.splits import ArraySplit
from peftbench.foundation.errors import BadInput, ConfigError, RecordError
from peftbench.methods.base import METHODS
from peftbench.records.record import RunRecord
from peftbench.sweep.grid import plan_grid
from peftbench.sweep.single import found_or_run
from tests.record_factory import record_values


def photos(root: Path, counts: dict[str, int]) -> Path:
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(256, size=(40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_words_with_units_are_read_and_the_rest_is_the_cells() -> None:
    request = read_request(["dataset=folder", "dataset.root=x", "budget=90s", "memory=8GB", "params=1.5M", "out=here"])
    assert (request.seconds, request.memory_bytes, request.params) == (90, 8e9, 1.5e6)
    assert request.words == ("dataset=folder", "dataset.root=x") and request.out == Path("here")
    assert read_request(["dataset=digits"]).seconds == 1800


def test_all_wrong_words_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_request(["budget=soon", "memory=8", "method=lora", "photos"])
    assert [problem.split()[0] for problem in caught.value.problems] == ["method", "'photos'", "budget", "memory"]


def test_a_task_that_the_data_has_nothing_for_is_to_be_left_out() -> None:
    with pytest.raises(ConfigError, match="digits has a class an image and nothing for task=depth; leave out task"):
        Adviser(read_request(["dataset=digits", "task=depth"]), print)


@pytest.mark.parametrize(
    ("words", "task"),
    [([], "segmentation"), (["task=depth"], "depth"), (["task=vqa", "task.fusion=product"], "segmentation")],
)
def test_maps_are_answered_with_a_sweep_that_compares(words: list[str], task: str) -> None:
    words = ["dataset=scenes", *words]
    with pytest.raises(ConfigError, match="advise is for a class an image, and scenes has class_map, depth") as caught:
        Adviser(read_request(words), print)
    asked = shlex.split(str(caught.value).partition("python -m peftbench -m ")[2].partition(", then")[0])
    assert {cell.config["task"]["name"] for cell in plan_grid(asked)[0].cells} == {task}


@pytest.mark.parametrize(("word", "meant"), [("bugdet=3m", "budget"), ("param=1M", "params"), ("memry=8GB", "memory")])
def test_an_own_word_of_advise_with_a_slip_is_named(word: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown option {word.partition('=')[0]}; did you mean '{meant}'"):
        read_request(["dataset=digits", word])


def test_a_folder_of_any_size_is_divided_and_what_leaks_is_said(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 40, "dog": 6})
    (root / "dog" / "copy.png").write_bytes((root / "dog" / "0.png").read_bytes())
    words = dividing_words(Folder(root=str(root)), lambda option: False)
    assert words == ["dataset.num_train=29", "dataset.num_val=8"]
    assert dividing_words(Folder(root=str(root)), lambda option: option == "dataset.num_val") == []
    seen = look(Folder(root=str(root), num_train=29, num_val=8), ("train", "val", "test"))
    assert "47 images in 2 classes: 29 train, 8 choose, 10 are kept" in seen.lines[0]
    assert "fewest: dog (7); most: cat (40)" in seen.lines[1] and "60 x 40" in seen.lines[2]
    said = " / ".join(seen.warnings)
    assert "cat has 6 times as many" in said and "8 validation images tell two settings apart" in said
    assert ("also in" in said) or ("stands twice" in said)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", {"cat": 1, "dog": 1})
    with pytest.raises(BadInput, match="2 images in 2 classes are too few"):
        dividing_words(Folder(root=str(root)), lambda option: False)


def test_methods_of_clips_do_not_race() -> None:
    """The board of videos puts them ahead of others, which took places of a race that they cannot run."""
    assert {"lora", ALWAYS} <= set(applicable()) and not {"st_adapter", "aim", "coop", "mtlora"} & set(applicable())
    assert not any(METHODS.get(name).mixes_time for name in applicable())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset=moving_shapes"], "this one is of clips"),
        (["dataset=named_shapes", "backbone=pair_micro"], "this backbone reads texts as well"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_the_race(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"advise ends with an export: .*{said}\. Compare methods") as caught:
        Adviser(read_request(words), print)
    asked = shlex.split(str(caught.value).partition("python -m peftbench -m ")[2].partition(", then")[0])
    assert len(plan_grid(asked)[0].cells) == 3


def test_the_shortlist_is_ordered_varied_and_keeps_to_the_parameters() -> None:
    families = {"lora": "r", "convpass": "a", "mona": "a", "hydra": "r", "mlp_only": "s", "attn_only": "s", ALWAYS: "s"}
    chosen = shortlist(4, families, {"mlp_only": False})
    names = [candidate.method for candidate in chosen]
    assert len(names) == 4 and names[-1] == ALWAYS and "mlp_only" not in names
    standings = [candidate.standing for candidate in chosen[:-1]]
    assert standings == sorted(standings, reverse=True)
    everyone = shortlist(9, {**families, "adaptformer": "a", "repadapter": "a"}, {})
    assert (
        sum(candidate.method in ("convpass", "mona", "adaptformer", "repadapter") for candidate in everyone)
        == PER_FAMILY
    )


def test_a_step_that_no_board_has_counted_is_taken_to_be_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that one paper praises raced first under a budget of minutes, and broke it by ten times."""
    costs = {"convpass": 1.25, "lora": 1.0, "hydra": 1.5, "compacter": 2.0, "lst": 0.5}
    monkeypatch.setattr(shortlist_module, "_costs", lambda: costs)
    chosen = {candidate.method: candidate for candidate in shortlist(3, {"mona": "a", "convpass": "b"}, {})}
    assert chosen["convpass"].why.endswith("a step costs 1.2 times LoRA's")
    assert chosen["mona"].why.endswith("a step is taken to be dear, since no board has counted it")
    assert chosen["mona"].cost == 1.75


def trial(method: str, correct: int, n: int, params: tuple[int, int]) -> Trial:
    values = record_values(method=method, method_params=params[0], head_params=params[1])
    score = {"accuracy": correct / n, "mean_class_accuracy": correct / n, "loss": 1.0, "correct": correct, "n": n}
    values["metrics"] = {"val": score, "test": None}
    values["data"]["splits"] |= {"val": {"name": "val", "n": n, "digest": "v"}, "test": None}
    return Trial(Entry(method, 1.0), 0, 2, RunRecord(**values | {"predictions": None}))


@pytest.mark.parametrize(
    ("first", "second", "n", "params", "said"),
    [
        (1, 0, 1, (0, 20), "cannot tell the two apart"),
        (10, 10, 10, (0, 20), "(0.0 points, 95 % interval -27.8 to 27.8); linear also trains fewer parameters."),
        (10, 10, 10, (0, 40), "both train equally many parameters."),
        (10, 10, 10, (9, 40), "head2toe trains fewer parameters and may be as good."),
        (95, 50, 100, (0, 20), "a clear difference"),
    ],
)
def test_a_runner_up_is_told_apart_by_images_and_parameters(
    first: int, second: int, n: int, params: tuple[int, int], said: str
) -> None:
    winner, other = trial("linear", first, n, params), trial("head2toe", second, n, (0, 40))
    verdict = Verdict(winner, other, winner.record, Race(Plan((2,), (2,))))
    assert said in verdict.certainty()


def test_a_folder_that_cannot_be_written_is_found_before_the_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    adviser = Adviser(read_request(["dataset=digits", "backbone=vit_micro"]), print)
    adviser.out = tmp_path / "taken" / "here"
    monkeypatch.setattr(adviser, "_look", lambda: pytest.fail("the race began"))
    with pytest.raises(RecordError, match=r"cannot write .*model\.safetensors"):
        adviser.run()
    (tmp_path / "made" / "model.safetensors").mkdir(parents=True)
    adviser.out = tmp_path / "made"
    with pytest.raises(RecordError, match=r"model\.safetensors: Is a directory; .*; move that folder away"):
        adviser.run()


def test_a_text_in_the_place_of_the_models_card_is_found_before_the_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adviser = Adviser(read_request(["dataset=digits", f"out={tmp_path}"]), print)
    monkeypatch.setattr(adviser, "_look", lambda: pytest.fail("the race began"))
    (tmp_path / "model.md").write_text("my own notes")
    with pytest.raises(ConfigError, match=r"model\.md, and what is there is no card of this package; move it away"):
        adviser.run()
    assert [path.name for path in tmp_path.iterdir()] == ["model.md"]
    (tmp_path / "model.md").unlink()
    (tmp_path / "model.md").mkdir()
    with pytest.raises(ConfigError, match=r"writes its card to .*model\.md, which is a folder; name another target"):
        adviser.run()


def test_a_folder_of_an_earlier_advice_is_taken_and_one_of_others_is_not(tmp_path: Path) -> None:
    page, facts = tmp_path / "advice.html", tmp_path / "advice.json"
    race, images = Race(Plan((1,), (2,))), ArraySplit(np.zeros((1, 2, 2), np.uint8), np.array([0]))
    write_page(page, title_of("<mine>"), (), (), (), race, ("a", "b"), images, np.array([[0.9, 0.1]]), "")
    facts.write_text('{"record": "", "method": "lora", "accuracy": 1, "trials": [], "words": []}')
    check_folder(tmp_path)
    for file, text in ((page, "<!doctype html><title>of others</title>"), (facts, "[]"), (facts, "no JSON")):
        before = file.read_text()
        file.write_text(text)
        with pytest.raises(ConfigError, match=rf"{file.name} would be written over, .* of this package; move it away"):
            check_folder(tmp_path)
        assert file.read_text() == text
        file.write_text(before)


def test_what_an_advice_prints_uses_the_weights_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model alone does not say where they are."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "my own" / "back bone.safetensors"
    weights.parent.mkdir()
    save_file(load_file(embedded_file()), weights, {"other": "bytes"})
    root = photos(tmp_path / "photos", {"cat": 12, "dog": 12})
    words = ["dataset=folder", f"dataset.root={root}", "backbone.checkpoint=my own/back bone.safetensors"]
    adviser = Adviser(read_request([*words, "runtime.device=cpu", "runtime.progress=false"]), lambda line: None)
    race = Race(Plan((2,), (2,)))
    trials = [Trial(Entry(ALWAYS, 1.0), 0, 2, adviser._trial(Entry(ALWAYS, 1.0), 2))]
    record, _ = found_or_run(adviser._words_of(trials[0].entry, 2, adviser.last_protocol), silent=True)
    advice = adviser._finish(adviser._look(), Verdict(trials[0], None, record, race))
    in_python, command = advice.use
    scope: dict[str, Any] = {}
    exec(in_python.replace("photo.jpg", str(root / "cat" / "0.png")), scope)
    assert scope["model"].class_names == ("cat", "dog")
    capsys.readouterr()
    assert predict.main(shlex.split(command.replace("FILES_OR_FOLDER", str(root / "cat")))[4:]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 13
    # the page lies beside the model and may be read from anywhere
    page = html.unescape(advice.page.read_text())
    assert f'peftbench.predictor("model.safetensors", checkpoint="{weights}")' in page
    card = (advice.model.with_suffix(".md")).read_text()
    assert 'peftbench.predictor("model.safetensors", checkpoint="BACKBONE.safetensors")("photo.jpg")' in card


def test_confusion_calibration_and_mistakes_of_three_images() -> None:
    labels = np.array([0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.45, 0.55]])
    assert confusion(labels, probabilities.argmax(axis=1), 2).tolist() == [[1, 0], [1, 1]]
    rows, error = calibration(labels, probabilities)
    assert rows == [(0.55, 1.0, 1), (0.8, 0.0, 1), (0.9, 1.0, 1)]
    assert error == pytest.approx((0.45 + 0.8 + 0.1) / 3)
    assert worst(labels, probabilities).tolist() == [1]
