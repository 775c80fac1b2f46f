"""Named shapes: classes of two words, half of them new to the embedded pair."""

import numpy as np

from peftbench.data.sources.named_shapes import CLASSES, COLOURS, HELD_OUT, SEEN, SHAPES, NamedShapes, draw, held_out


def test_half_of_the_pairs_are_held_out_and_every_word_is_in_both_halves():
    assert len(SEEN) == len(HELD_OUT) == 16 and not set(SEEN) & set(HELD_OUT)
    assert not any(held_out(*name.split()) for name in SEEN)
    assert {pair for c in COLOURS for s in SHAPES if held_out(c, s) for pair in [f"{c} {s}"]} == set(HELD_OUT)
    for half in (SEEN, HELD_OUT):
        for place, words in enumerate((COLOURS, SHAPES)):
            assert {name.split()[place] for name in half} == set(words)


def test_splits_hold_all_classes_and_an_image_depends_on_its_place_alone():
    source = NamedShapes().open()
    assert source.class_names == CLASSES["all"]
    train, test = source.split("train800val200"), source.split("test")
    assert set(train.labels) == set(range(32)) and len(train) == len(test) == 1000
    assert np.array_equal(np.asarray(test.read(3)), draw(0, 1003, source.class_names[test.labels[3]]))
    assert len({NamedShapes(classes=c, seed=s).revision() for c in CLASSES for s in (0, 1)}) == 6


def test_the_named_colour_is_the_colour_of_the_shape():
    for index, (colour, rgb) in enumerate(COLOURS.items()):
        image = draw(0, index, f"{colour} circle").astype(float)
        distance = np.abs(image - np.array(rgb)).max(axis=2)
        assert (distance < 75).sum() > 60


def test_a_look_changes_the_channels_and_nothing_else():
    plain, sodium, negative = (NamedShapes(look=look) for look in ("plain", "sodium", "negative"))
    pictures = [np.asarray(spec.open().split("test").read(5)).astype(int) for spec in (plain, sodium, negative)]
    assert np.array_equal(pictures[2], 255 - pictures[0])
    assert np.array_equal(pictures[1], np.rint(pictures[0] * [1.0, 0.7, 0.25]))
    assert len({spec.revision() for spec in (plain, sodium, negative)}) == 3
    assert len({spec.open().split("test").content_digest() for spec in (plain, sodium, negative)}) == 3
    assert sodium.label == "named_shapes_sodium" and plain.identity() == {"classes": "all", "seed": 0}
