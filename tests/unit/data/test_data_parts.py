"""Sources of any size: all images, VTAB-sized draws, and a few images of every class from any dataset."""

from collections import Counter

import numpy as np
import pytest

from peftbench.config.protocol import ProtocolSpec
from peftbench.data.base import Source
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.parts import PartsSource, stratified_order
from peftbench.data.pixels.cache import load_split
from peftbench.data.pixels.transform import ImageTransform
from peftbench.data.raw import TakenSplit
from peftbench.data.sources.digits import Digits
from peftbench.data.sources.shapes import Shapes
from peftbench.data.splits import ArraySplit, JoinedSplit
from peftbench.foundation.errors import BadInput, ConfigError


def numbered(count: int, num_classes: int, start: int = 0) -> ArraySplit:
    """Images whose first two pixels spell their number; image i has class i % num_classes."""
    images = np.zeros((count, 2, 2), dtype=np.uint8)
    numbers = np.arange(start, start + count)
    images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
    return ArraySplit(images, numbers % num_classes)


def numbers(split) -> list[int]:
    pixels = [np.asarray(split.read(index)) for index in range(len(split))]
    return [int(pixel[0, 0]) * 256 + int(pixel[0, 1]) for pixel in pixels]


def source(num_train: int, num_val: int | None = None, num_classes: int = 3, seed: int = 0) -> PartsSource:
    val = None if num_val is None else numbered(num_val, num_classes, start=20_000)
    return PartsSource(
        class_names=tuple("abcdefghij"[:num_classes]),
        membership="full",
        pixels="original",
        test="own:5",
        notes=(),
        given_train=numbered(num_train, num_classes),
        given_val=val,
        test_part=numbered(5, num_classes, start=30_000),
        seed=seed,
    )


def test_all_images_with_a_validation_part():
    parts = source(50, 20)
    assert numbers(parts.split("train")) == list(range(50))
    assert numbers(parts.split("val")) == list(range(20_000, 20_020))
    assert numbers(parts.split("trainval")) == numbers(parts.split("train")) + numbers(parts.split("val"))
    assert numbers(parts.split("test")) == list(range(30_000, 30_005))
    assert {parts.membership_of(name) for name in ("train", "trainval")} == {"full"}


def test_a_tenth_validates_where_no_images_are_set_aside():
    parts = source(60)
    train, val = numbers(parts.split("train")), numbers(parts.split("val"))
    assert (len(train), len(val)) == (54, 6)
    assert sorted(train + val) == list(range(60))
    assert Counter(number % 3 for number in val) == {0: 2, 1: 2, 2: 2}
    assert numbers(parts.split("trainval")) == list(range(60))


@pytest.mark.parametrize(("num_train", "num_val"), [(3_000, None), (3_000, 100), (1_000, 300), (800, 200)])
def test_vtab_sized_draws_are_disjoint_balanced_and_named(num_train, num_val):
    parts = source(num_train, num_val)
    train, val = numbers(parts.split("train800")), numbers(parts.split("val200"))
    assert (len(set(train)), len(set(val)), len(set(train) & set(val))) == (800, 200, 0)
    assert numbers(parts.split("train800val200")) == train + val
    counts = Counter(number % 3 for number in train)
    assert max(counts.values()) - min(counts.values()) <= 1
    own_val = num_val is not None and num_val >= 200
    assert all((number >= 20_000) == own_val for number in val)
    assert parts.membership_of("train800val200") == "vtab1k-style:stratified-seed0"


def test_draws_repeat_with_the_seed_and_change_with_it():
    first, again, other = (numbers(source(2_000, seed=seed).split("train800")) for seed in (0, 0, 1))
    assert first == again
    assert set(first) != set(other)


def test_too_few_images_for_a_vtab_sized_draw_say_what_else_there_is():
    with pytest.raises(BadInput, match=r"need 1,000 training images and there are 999; .*protocol=full.*fewshot"):
        source(999).split("train800")
    with pytest.raises(BadInput, match=r"need 800 training images and there are 500"):
        source(500, 200).split("val200")
    with pytest.raises(BadInput, match="too few training images"):
        source(1).split("val")


def test_a_stratified_order_starts_with_one_of_each_class_and_stays_in_proportion():
    labels = np.repeat(np.arange(4), [60, 30, 9, 1])
    order = stratified_order(labels, seed=0)
    assert sorted(order.tolist()) == list(range(100))
    assert set(labels[order[:4]]) == {0, 1, 2, 3}
    assert np.abs(np.bincount(labels[order[:50]], minlength=4) - [30, 15, 4.5, 0.5]).max() <= 1.5
    by_name = stratified_order(labels, seed=0, keys=[f"{index:03d}" for index in range(100)])
    assert by_name.tolist() != order.tolist()


@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_a_few_shot_draw_has_that_many_of_every_class_and_is_nested(shots):
    draw = numbers(few_shot(source(200), shots, 0, "m").split("fewshot"))
    assert Counter(number % 3 for number in draw) == dict.fromkeys(range(3), shots)
    larger = numbers(few_shot(source(200), shots + 1, 0, "m").split("fewshot"))
    assert larger[: len(draw)] == draw
    assert set(draw) != set(numbers(few_shot(source(200), shots, 1, "m").split("fewshot")))
    assert draw == numbers(few_shot(source(200), shots, 0, "m").split("fewshot"))


def test_few_shot_validation_takes_other_images_and_never_more_than_four():
    for shots, num_val in ((1, 1), (2, 2), (16, 4)):
        drawn = few_shot(source(200), shots, 0, "m")
        train, val = set(numbers(drawn.split("fewshot"))), numbers(drawn.split("fewshot_val"))
        assert Counter(number % 3 for number in val) == dict.fromkeys(range(3), num_val)
        assert not train & set(val)


def test_a_few_shot_draw_leaves_given_validation_images_alone():
    drawn = few_shot(source(50, 20), 4, 0, "few-shot:x")
    assert max(numbers(drawn.split("fewshot"))) < 50
    assert len(drawn.split("val")) == 20
    assert (drawn.membership_of("fewshot"), drawn.membership_of("train")) == ("few-shot:x", "full")
    assert numbers(drawn.split("test")) == list(range(30_000, 30_005))


def test_more_shots_than_a_class_has_images_name_the_class_and_the_most_there_can_be():
    with pytest.raises(BadInput, match=r"shots=8 needs 8 .* class 'b' has 7; at most protocol\.shots=7"):
        few_shot(source(22), 8, 0, "m").split("fewshot")
    with pytest.raises(BadInput, match=r"needs 12 training images of every class"):
        few_shot(source(30), 8, 0, "m").split("fewshot_val")


@pytest.mark.parametrize("spec", [Digits(), Shapes(task="count")], ids=["digits", "shapes"])
def test_embedded_sets_give_few_shot_draws_of_their_thousand_images(spec, tmp_path):
    drawn = few_shot(spec.open(), 4, 0, "m")
    split = load_split(drawn, "fewshot", ImageTransform(8), tmp_path)
    assert Counter(split.labels.tolist()) == dict.fromkeys(range(drawn.num_classes), 4)
    thousand = load_split(drawn, "train800val200", ImageTransform(8), tmp_path)
    known = {image.tobytes(): label for image, label in zip(thousand.images, thousand.labels, strict=True)}
    assert all(known[image.tobytes()] == label for image, label in zip(split.images, split.labels, strict=True))


def test_a_split_the_dataset_does_not_have_is_one_clear_line(tmp_path):
    with pytest.raises(BadInput, match=r"no split trainval, only train800, val200, .*choose a protocol"):
        load_split(Digits().open(), "trainval", ImageTransform(8), tmp_path)


def test_digests_follow_content_and_order():
    whole = numbered(10, 2)
    rows = np.array([3, 1, 2])
    taken, joined = TakenSplit(whole, rows), JoinedSplit(whole, whole)
    assert numbers(taken) == [3, 1, 2] == numbers(whole.take(rows))
    assert taken.labels.tolist() == [1, 1, 0]
    assert taken.content_digest() != TakenSplit(whole, rows[::-1]).content_digest()
    assert numbers(joined) == numbers(whole) * 2
    assert joined.content_digest() not in (whole.content_digest(), JoinedSplit(whole, taken).content_digest())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "fewshot"}, "go together"),
        ({"shots": 4}, "go together"),
        ({"val_split": "val200"}, "val200 does not go with protocol.train_split=train800val200; train on train800"),
        ({"train_split": "trainval", "val_split": "val"}, "train on train instead"),
        ({"train_split": "train", "val_split": "val200"}, "train on train800 instead"),
        ({"train_split": "fewshot", "shots": 0}, "protocol.shots must be at least 1"),
    ],
)
def test_protocols_that_contradict_themselves(options, message):
    with pytest.raises(ConfigError, match=message):
        ProtocolSpec(**options)


def test_a_draw_follows_the_cell_or_its_own_seed_and_says_which():
    own = ProtocolSpec(train_split="fewshot", shots=4, shots_seed=3)
    assert own.drawn(7) == (3, "few-shot:peftbench-seed3", "nested")
    cell = ProtocolSpec(train_split="fewshot", shots=4)
    assert cell.drawn(7) == (7, "few-shot:peftbench-cell-seed", "nested")
    assert {"shots", "shots_seed"} <= set(own.identity())
    assert not {"shots", "shots_seed"} & set(ProtocolSpec().identity())


def test_a_source_is_asked_for_its_pool():
    assert isinstance(Digits().open(), Source)
    assert len(Digits().open().pool()) == 1_000
