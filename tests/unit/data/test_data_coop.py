"""CoOp's sets and its draw: small folders in its layout, and its own lists where they are at hand."""

import dataclasses
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.coop import dataset as coop
from peftbench.data.coop.dataset import Coop
from peftbench.data.coop.lists import read_lists
from peftbench.data.coop.tasks import ALL_SETS, COOP_SETS
from peftbench.data.fewshot.draw import COOP, few_shot
from peftbench.data.parts import PartsSource
from peftbench.data.splits import ArraySplit, FileSplit
from peftbench.data.templates import IMAGENET_7, IMAGENET_80
from peftbench.foundation.errors import BadInput, MissingInput

LISTED = ("caltech101", "dtd", "eurosat", "oxford_flowers", "oxford_pets", "stanford_cars", "ucf101")


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), shade).save(path)


def small(monkeypatch: pytest.MonkeyPatch, task: str, **counts: int) -> None:
    facts = dataclasses.replace(ALL_SETS[task], num_classes=2, counts=counts)
    monkeypatch.setitem(coop.ALL_SETS, task, facts)


def textures(root: Path) -> dict[str, list[list[object]]]:
    """A `dtd` of two classes, whose lists name the second one first."""
    entries = {
        "train": [[f"dotted/{n}.png", 1, "dotted"] for n in range(3)] + [[f"b/{n}.png", 0, "b_b"] for n in range(3)],
        "val": [["dotted/3.png", 1, "dotted"], ["b/3.png", 0, "b_b"]],
        "test": [["b/4.png", 0, "b_b"], ["dotted/4.png", 1, "dotted"]],
    }
    for number, (path, _, _) in enumerate(entry for part in entries.values() for entry in part):
        image(root / "dtd/images" / path, number)
    write_lists(root, entries)
    return entries


def write_lists(root: Path, entries: object) -> None:
    (root / "dtd").mkdir(exist_ok=True)
    (root / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(entries))


def test_lists_give_parts_labels_names_and_template(tmp_path, monkeypatch):
    small(monkeypatch, "dtd", train=6, val=2, test=2)
    textures(tmp_path)
    spec = Coop(task="dtd", root=str(tmp_path))
    source = spec.open()
    assert (spec.label, spec.group) == ("coop/dtd", "fewshot")
    assert (source.class_names, source.templates, source.test) == (("b_b", "dotted"), ("{} texture.",), "coop-lists:2")
    assert source.split("train").labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert [np.asarray(source.split("test").read(row))[0, 0] for row in range(2)] == [8, 9]
    drawn = few_shot(source, 1, 1, "m", COOP)
    assert (drawn.templates, len(drawn.split("fewshot")), len(drawn.split("fewshot_val"))) == (source.templates, 2, 2)
    before = spec.revision()
    image(tmp_path / "dtd/images/b/4.png", 77)
    assert Coop(task="dtd", root=str(tmp_path)).revision() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries["val"][0].pop(), r"val\[0\]: expected \[path, label, class name\]"),
        (lambda entries: entries["test"][0].__setitem__(2, "c"), r"label 0 is called 'c' here and 'b_b' before"),
        (lambda entries: entries["train"][0].__setitem__(0, "../x.png"), "must stay inside"),
        (lambda entries: entries["train"][0].__setitem__(0, "/x.png"), "must be relative"),
        (lambda entries: entries.pop("val"), "expected one JSON object with train, val, test"),
        (lambda entries: entries["train"].pop(), r"5 train images, .* expected 6 train images"),
        (lambda entries: [e.__setitem__(1, 7) for p in entries.values() for e in p if e[1]], "labels are not 0 to 1"),
    ],
)
def test_damaged_lists_are_named(tmp_path, monkeypatch, change, message):
    small(monkeypatch, "dtd", train=6, val=2, test=2)
    entries = textures(tmp_path)
    change(entries)
    write_lists(tmp_path, entries)
    with pytest.raises(BadInput, match=message):
        Coop(task="dtd", root=str(tmp_path)).open()


def test_aircraft_is_read_by_its_official_lists(tmp_path, monkeypatch):
    small(monkeypatch, "fgvc_aircraft", train=1, val=1, test=1)
    folder = tmp_path / "fgvc_aircraft"
    for number, part in enumerate(("train", "val", "test")):
        image(folder / f"images/{number:07d}.jpg", number)
        (folder / f"images_variant_{part}.txt").write_text(f"{number:07d} {('707-320', 'BAE 146-200')[number % 2]}\n")
    (folder / "variants.txt").write_text("707-320\nBAE 146-200\n")
    source = Coop(task="fgvc_aircraft", root=str(tmp_path)).open()
    assert source.class_names == ("707-320", "BAE 146-200")
    assert [source.split(part).labels.tolist() for part in ("train", "val", "test")] == [[0], [1], [0]]


def test_imagenet_and_its_variants_follow_wordnet_ids(tmp_path, monkeypatch):
    names = "n01 great white shark\nn02 tench\nn03 stingray\n"
    for place in ("imagenet", "imagenetv2", "imagenet-adversarial"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "classnames.txt").write_text(names)
    for wnid in ("n02", "n01"):
        image(tmp_path / f"imagenet/images/train/{wnid}/a.png", 1)
        image(tmp_path / f"imagenet/images/val/{wnid}/a.png", 2)
    small(monkeypatch, "imagenet", train=2, test=2)
    source = Coop(task="imagenet", root=str(tmp_path)).open()
    assert source.class_names == ("great white shark", "tench")
    assert source.split("trainval").labels.tolist() == [0, 1]
    # V2's folders are places in classnames.txt, by value
    for number in (0, 1):
        image(tmp_path / f"imagenetv2/imagenetv2-matched-frequency-format-val/{number}/a.png", number)
    small(monkeypatch, "imagenet_v2", test=2)
    assert Coop(task="imagenet_v2", root=str(tmp_path)).open().class_names == ("great white shark", "tench")
    # A has some of the classes
    for wnid in ("n03", "n02"):
        image(tmp_path / f"imagenet-adversarial/imagenet-a/{wnid}/a.png", int(wnid[2]))
    small(monkeypatch, "imagenet_a", test=2)
    variant = Coop(task="imagenet_a", root=str(tmp_path)).open()
    assert (variant.class_names, variant.split("test").labels.tolist()) == (("tench", "stingray"), [0, 1])
    with pytest.raises(BadInput, match=r"for testing alone; train on coop/imagenet, then .*evaluate RECORD"):
        variant.split("trainval")


@pytest.mark.parametrize("task", ALL_SETS)
def test_missing_sets_say_what_how_large_and_how(task, tmp_path):
    with pytest.raises(MissingInput) as caught:
        Coop(task=task, root=str(tmp_path)).revision()
    for part in (str(tmp_path), f"{ALL_SETS[task].megabytes:,} MB", "dataset.root", "DATASETS.md"):
        assert part in str(caught.value)


def test_lists_without_their_images_say_what_to_get_and_not_another_folder(tmp_path, monkeypatch):
    small(monkeypatch, "dtd", train=6, val=2, test=2)
    textures(tmp_path)
    (tmp_path / "dtd/images").rename(tmp_path / "elsewhere")
    with pytest.raises(
        MissingInput, match=r"dtd none of the 10 listed images is there, first images/dotted/0\.png\. Get the"
    ):
        Coop(task="dtd", root=str(tmp_path)).revision()


def numbered(num_images: int, first: int = 0, classes: int = 3) -> ArraySplit:
    images = np.arange(first, first + num_images, dtype=np.uint8).reshape(-1, 1, 1)
    return ArraySplit(images, np.arange(num_images)[::-1] % classes)


def numbers(split) -> list[int]:
    return [int(np.asarray(split.read(row))[0, 0]) for row in range(len(split))]


def parts(val: bool) -> PartsSource:
    given = numbered(12, 100) if val else None
    return PartsSource(("a", "b", "c"), "full", "original", "official:3", (), numbered(15), given, numbered(3, 200), 0)


def test_the_draw_is_one_stream_over_training_then_validation_images():
    """Independently: labels in the order in which they appear, `random.sample` for each, then the validation images."""
    random.seed(2)
    groups = {label: [row for row in range(15) if (14 - row) % 3 == label] for label in (2, 1, 0)}
    train = [row for label in (2, 1, 0) for row in random.sample(groups[label], 2)]
    val_groups = {label: [row + 100 for row in range(12) if (11 - row) % 3 == label] for label in (2, 1, 0)}
    val = [row for label in (2, 1, 0) for row in random.sample(val_groups[label], 2)]
    drawn = few_shot(parts(val=True), 2, 2, "m", COOP)
    assert (numbers(drawn.split("fewshot")), numbers(drawn.split("fewshot_val"))) == (train, val)


def test_without_validation_images_those_left_over_validate():
    drawn = few_shot(parts(val=False), 4, 1, "m", COOP)
    train, val = numbers(drawn.split("fewshot")), numbers(drawn.split("fewshot_val"))
    assert (len(train), len(val)) == (12, 3)
    assert not set(train) & set(val)
    with pytest.raises(BadInput, match="leaves no image to validate on"):
        few_shot(parts(val=False), 5, 1, "m", COOP).split("fewshot_val")


def test_clip_s_template_lists_are_whole():
    assert len(set(IMAGENET_80)) == 80 and set(IMAGENET_7) <= set(IMAGENET_80)
    assert all(template.count("{}") == 1 for template in IMAGENET_80)


@pytest.mark.shared
@pytest.mark.parametrize("task", LISTED)
def test_counts_and_classes_are_those_of_coop_s_lists(task, shared, tmp_path):
    listed, names = lists_of(task, shared, tmp_path)
    facts = COOP_SETS[task]
    assert ({part: len(images.paths) for part, images in listed.items()}, len(names)) == (
        facts.counts,
        facts.num_classes,
    )


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "shots", "first"),
    [
        ("dtd", 1, ["banded/banded_0117.jpg", "blotchy/blotchy_0136.jpg"]),
        ("eurosat", 16, ["AnnualCrop/AnnualCrop_2365.jpg"]),
    ],
)
def test_the_draw_is_the_published_one(task, shots, first, shared, tmp_path):
    listed, names = lists_of(task, shared, tmp_path)
    train, val, test = (FileSplit([Path(path) for path in of.paths], of.labels) for of in listed.values())
    source = PartsSource(tuple(names), "full", "original", "t", (), train, val, test, 0)
    split = few_shot(source, shots, 1, "m", COOP).split("fewshot")
    assert len(split) == shots * len(names)
    assert [split.describe(row).partition(f"{COOP_SETS[task].images}/")[2] for row in range(len(first))] == first


def lists_of(task: str, shared: Path, folder: Path):
    """The parts and names of CoOp's own lists, which the development data hold in another form."""
    content = json.loads(gzip.decompress((shared / f"data/coop_splits/{task}.json.gz").read_bytes()))
    names = content["classes"]
    entries = {
        part: [[path, label, names[label]] for path, label in content[part]] for part in ("train", "val", "test")
    }
    (folder / f"split_zhou_{COOP_SETS[task].lists}.json").write_text(json.dumps(entries))
    return read_lists(folder, COOP_SETS[task])
