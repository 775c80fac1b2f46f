"""Images with captions: drawn ones say what is shown, and what is taken or joined keeps its texts."""

import numpy as np

from peftbench.backbones.tokenizers import micro_words
from peftbench.data.sources.captioned_shapes import CaptionedShapes, scene
from peftbench.data.splits import joined
from peftbench.data.texted import TextedSplit, answer_numbers


def test_captions_name_what_was_drawn_in_words_that_the_embedded_pair_knows():
    split = CaptionedShapes().open().split("val200")
    assert isinstance(split, TextedSplit) and split.targets["captions"].tolist() == [5] * 200
    for index in range(0, 200, 20):
        _, shown = scene(0, 800 + index)
        for caption in split.texts[index]:
            assert micro_words().pieces(caption)
            assert shown["colour"] in caption or shown["shape"].removesuffix("s") in caption
            if "ground" in caption:
                assert f"{shown['ground']} ground" in caption
            if "row" in caption.split():
                assert f"row {shown['row']} column {shown['column']}" in caption
    assert len({caption for own in split.texts for caption in own}) > 500


def test_what_is_taken_and_joined_keeps_its_texts_and_answers():
    first, second = (CaptionedShapes().open().split(name).take(np.array([3, 1])) for name in ("train800", "val200"))
    assert isinstance(first, TextedSplit) and isinstance(second, TextedSplit)
    both = joined(first, second)
    assert isinstance(both, TextedSplit) and both.texts == first.texts + second.texts
    assert np.array_equal(np.asarray(both.read(2)), np.asarray(second.read(0)))
    answered = [
        TextedSplit(part.images, part.texts, np.full((2, 10), n, np.int32)) for n, part in enumerate((first, second))
    ]
    again = joined(*answered).take(np.array([2, 0]))
    assert isinstance(again, TextedSplit) and again.targets["answers"][:, 0].tolist() == [1, 0]
    assert len({part.texts_bytes() for part in (*answered, first)}) == 3


def test_answers_outside_the_vocabulary_have_no_number():
    found = answer_numbers([["two", "red"], ["blue"] * 10], ["red", "blue"])
    assert found[0].tolist() == [-1, 0] + [-1] * 8 and found[1].tolist() == [1] * 10
