"""Karpathy's splits and VQA v2 as files, and what is said of files that are neither."""

import json

import numpy as np
import pytest
from PIL import Image

from peftbench.data.sources.asked_shapes import VOCABULARY, AskedShapes
from peftbench.data.sources.captioned_shapes import NUMBERS, plural, scene
from peftbench.data.sources.texted_files import Captions, Questions, plain_answer
from peftbench.data.texted import TextedSplit
from peftbench.foundation.errors import BadInput, MissingInput


def picture(path, value):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


def karpathy(tmp_path, splits=("train", "restval", "val", "test")):
    images = []
    for number, split in enumerate(splits):
        picture(tmp_path / "val2014" / f"{number}.png", 40 * number)
        said = [{"raw": f"picture {number}, once."}, {"raw": f"picture {number}, twice."}][: 2 - number % 2]
        images.append({"filepath": "val2014", "filename": f"{number}.png", "split": split, "sentences": said})
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return Captions(root=str(tmp_path), path=str(path))


def test_karpathys_splits_with_restval_in_training(tmp_path):
    spec = karpathy(tmp_path)
    source = spec.open()
    assert source.targets == ("captions",) and not source.mirrors
    train, both, test = (source.split(name) for name in ("train", "trainval", "test"))
    assert isinstance(train, TextedSplit) and isinstance(test, TextedSplit) and isinstance(both, TextedSplit)
    assert train.texts == (("picture 0, once.", "picture 0, twice."), ("picture 1, once.",)) and len(both) == 3
    assert np.asarray(test.read(0))[0, 0, 0] == 120 and train.targets["captions"].tolist() == [2, 1]
    before = spec.revision()
    (tmp_path / "dataset_coco.json").write_text((tmp_path / "dataset_coco.json").read_text().replace("once", "again"))
    assert spec.revision() != before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"split": "test"', '"split": "tset"', "its split is 'tset'"),
        ('"3.png"', '"../3.png"', "stay inside"),
        ('"raw"', '"row"', "its raw must be text"),
        ('"images"', '"pictures"', "no list of entries under 'images'"),
        ('{"images"', '{{"images"', "not JSON"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path, old, new, said):
    spec = karpathy(tmp_path)
    path = tmp_path / "dataset_coco.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadInput, match=said):
        spec.open()
    with pytest.raises(MissingInput, match=r"dataset\.path"):
        Captions(root=str(tmp_path)).open()


def test_vqa_v2_with_a_closed_vocabulary(tmp_path):
    key = 0
    for year, count in (("train2014", 20), ("val2014", 2)):
        questions, annotations = [], []
        for image in range(count):
            picture(tmp_path / year / f"COCO_{year}_{image:012d}.jpg", image)
            for answer in ("Yes", "two", f"rare {image}"):
                key += 1
                questions.append({"image_id": image, "question_id": key, "question": f"Is it {answer}?"})
                given = [{"answer": answer}] * 6 + [{"answer": "the other"}] * 4
                annotations.append({"question_id": key, "answers": given})
        for name, what, values in (
            ("OpenEnded_mscoco", "questions", questions),
            ("mscoco", "annotations", annotations),
        ):
            (tmp_path / f"v2_{name}_{year}_{what}.json").write_text(json.dumps({what: values}))
    source = Questions(root=str(tmp_path)).open()
    assert source.class_names == ("2", "yes") and source.targets == ("answers",)
    train, val, test = (source.split(name) for name in ("train", "val", "test"))
    # a tenth of the pictures validates, with all that is asked of them; the rare answers train nothing
    assert (len(train), len(val), len(test)) == (36, 4, 6)
    assert isinstance(val, TextedSplit) and len({path.name for path in val.images.paths}) == 2
    assert isinstance(test, TextedSplit) and test.answers is not None
    assert test.answers.tolist()[:3] == [[1] * 6 + [-1] * 4, [0] * 6 + [-1] * 4, [-1] * 10]


def test_answers_are_compared_as_vqa_does():
    given = ("The Red-dish, one.", "1,000", "2.5", "An apple / pear", "none")
    assert [plain_answer(answer) for answer in given] == ["red-dish 1", "1000", "2.5", "apple pear", "0"]


def test_questions_of_drawn_pictures_are_answered_by_what_was_drawn():
    split = AskedShapes().open().split("val200")
    assert isinstance(split, TextedSplit) and split.answers is not None
    kinds = set()
    for index, (question,) in enumerate(split.texts):
        _, shown = scene(0, 800 + index)
        answer = VOCABULARY[split.answers[index, 0]]
        kinds.add(question.split()[1] if question.startswith("the ") else answer)
        expected = {
            f"the colour of the {shown['shape']}.": shown["colour"],
            f"the type of the {shown['colour']} shape.": shown["shape"],
            f"the number of {plural(shown['shape'])}.": shown.get("count", NUMBERS[1]),
            f"the row of the {shown['shape']}.": shown.get("row"),
            f"the column of the {shown['shape']}.": shown.get("column"),
        }
        true = f"there is a {shown['colour']} {shown['shape']}."
        assert answer == expected.get(question, "yes" if question == true else "no")
    assert kinds == {"colour", "type", "number", "row", "column", "yes", "no"}
