"""Hugging Face sets: parquet, image folders, and the clear line for everything that cannot be used."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from peftbench.data.base import SPLITS
from peftbench.data.fewshot.draw import few_shot
from peftbench.data.sources.hf import HfDataset
from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError
from tests.own_images import swap_bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


def png(row: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (row // 256, row % 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def write(
    folder: Path, name: str, num_rows: int, image: str = "image", label: str = "label", names: bool = True, **change
) -> None:
    import datasets

    labels = [row % 4 for row in range(num_rows)]
    cells = [{"bytes": png(row), "path": None} for row in range(num_rows)]
    for row, value in change.get("labels", {}).items():
        labels[row] = value
    for row, value in change.get("cells", {}).items():
        cells[row] = value
    kind = datasets.ClassLabel(names=["a", "b", "c", "d"]) if names else datasets.Value("int64")
    features = datasets.Features({image: datasets.Image(decode=False), label: kind})
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict({image: cells, label: labels}, features=features)
    parquet.write_table(table.data.table, folder / f"{name}.parquet")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "set"
    write(folder, "train", 2_500)
    write(folder, "test", 120)
    return folder


def row_of(image: Image.Image) -> int:
    red, green, _ = image.getpixel((0, 0))
    return red * 256 + green


def test_the_sample_follows_the_hash_order_over_the_row_number(small):
    source = HfDataset(path=str(small)).open()
    order = sorted(range(2_500), key=lambda row: hashlib.md5(f"train{row}".encode()).digest())
    expected = {
        "train800": order[:800],
        "val200": order[2_250:2_450],
        "train800val200": order[:800] + order[2_250:2_450],
        "test": list(range(120)),
    }
    for name in SPLITS:
        split, rows = source.split(name), expected[name]
        assert split.labels.tolist() == [row % 4 for row in rows]
        assert [row_of(split.read(index)) for index in (0, 5, len(rows) - 1)] == [rows[0], rows[5], rows[-1]]
        joined = b"".join(hashlib.sha256(png(row)).digest() for row in rows)
        assert split.content_digest() == hashlib.sha256(joined).hexdigest()
    assert source.class_names == ("a", "b", "c", "d")
    assert (source.membership, source.pixels, source.test) == (
        "vtab1k-style:tfds-order-of-rows",
        "unknown",
        "official:120",
    )


def test_revision_is_of_the_bytes_not_of_the_place(small, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for file in small.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    first, second = HfDataset(path=str(small)), HfDataset(path=str(copy))
    assert first.revision() == second.revision()
    assert first.identity() == second.identity()
    assert [path.name for path in first.inputs()] == ["set", "test.parquet", "train.parquet"]
    (copy / "notes.md").write_text("words about the data are no data")
    assert first.revision() == second.revision()
    write(copy, "test", 121)
    assert first.revision() != second.revision()


def test_labels_in_tables(small):
    assert HfDataset(path=str(small)).label == "set"
    assert HfDataset(path=str(small), title="cifar10").label == "cifar10"
    assert HfDataset(path="owner/name").label == "owner/name"
    assert HfDataset(group_name="natural").group == "natural"


def test_other_usual_columns_are_found_and_others_can_be_named(tmp_path):
    folder = tmp_path / "set"
    for name in ("train", "test"):
        write(folder, name, 2_000, image="img", label="fine_label", names=False)
    source = HfDataset(path=str(folder)).open()
    assert source.class_names == ("0", "1", "2", "3")
    assert HfDataset(path=str(folder), classes=6).open().num_classes == 6
    with pytest.raises(BadInput, match=r"no column picture; columns are img, fine_label; set dataset\.image_column"):
        HfDataset(path=str(folder), image_column="picture").open()
    with pytest.raises(BadInput, match=r"column fine_label holds no images"):
        HfDataset(path=str(folder), image_column="fine_label").open()
    with pytest.raises(BadInput, match=r"labels go up to 3 and 2 classes are named; dataset\.classes is 2"):
        HfDataset(path=str(folder), classes=2).open()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {3: None}}, "test split must hold integers or words, without gaps"),
        ({"labels": {3: -1}, "names": False}, "the test split has label -1 in row 3"),
    ],
)
def test_bad_labels(tmp_path, change, message):
    write(tmp_path / "set", "train", 2_000)
    write(tmp_path / "set", "test", 10, **change)
    with pytest.raises(BadInput, match=message):
        HfDataset(path=str(tmp_path / "set")).open()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": None, "path": "gone/x.png"}, r"test row 4: only a path is stored \(gone/x\.png\)"),
        ({"bytes": b"not an image", "path": None}, r"test row 4: the image cannot be decoded"),
        (None, r"test row 4: no image stored"),
    ],
)
def test_bad_images_are_named_by_row(tmp_path, cell, message):
    write(tmp_path / "set", "train", 2_000)
    write(tmp_path / "set", "test", 10, cells={4: cell})
    split = HfDataset(path=str(tmp_path / "set")).open().split("test")
    with pytest.raises(BadInput, match=message):
        split.read(4)


def test_no_test_split_or_too_small_a_train_split(tmp_path):
    write(tmp_path / "set", "train", 900)
    for path in (tmp_path / "set", tmp_path / "set" / "train.parquet"):
        with pytest.raises(BadInput, match=r"no test split \(found: train\)"):
            HfDataset(path=str(path)).open()
    write(tmp_path / "set", "test", 10)
    source = HfDataset(path=str(tmp_path / "set")).open()
    with pytest.raises(BadInput, match=r"set: the train split has 900 images; .*protocol=full"):
        source.split("train800")
    assert [len(source.split(name)) for name in ("train", "val", "trainval")] == [810, 90, 900]
    assert len(few_shot(source, 16, 0, "m").split("fewshot")) == 64


def test_all_rows_with_a_validation_split(tmp_path):
    for name, count in (("train", 40), ("validation", 12), ("test", 8)):
        write(tmp_path / "set", name, count)
    source = HfDataset(path=str(tmp_path / "set")).open()
    assert [len(source.split(name)) for name in ("train", "val", "trainval", "test")] == [40, 12, 52, 8]
    assert [row_of(source.split("trainval").read(index)) for index in (0, 39, 40, 51)] == [0, 39, 0, 11]
    assert (source.membership_of("trainval"), source.membership_of("train800")) == (
        "full",
        "vtab1k-style:tfds-order-of-rows",
    )


def test_a_class_that_is_only_tested_is_named(tmp_path):
    write(tmp_path / "set", "train", 40, labels=dict.fromkeys(range(3, 40, 4), 0))
    write(tmp_path / "set", "test", 8)
    with pytest.raises(BadInput, match="1 of 4 classes have no training image, first 'd'"):
        HfDataset(path=str(tmp_path / "set")).open()


def test_what_save_to_disk_writes_and_arrow_files(small, tmp_path):
    import datasets

    tables = datasets.load_dataset(str(small), cache_dir=str(tmp_path / "hf"))
    tables.save_to_disk(str(tmp_path / "saved"))
    source = HfDataset(path=str(tmp_path / "saved")).open()
    assert [len(source.split(name)) for name in SPLITS] == [800, 200, 1_000, 120]
    assert row_of(source.split("test").read(7)) == 7
    assert source.class_names == ("a", "b", "c", "d")
    (tmp_path / "arrow").mkdir()
    for name in ("train", "test"):
        [file] = (tmp_path / "saved" / name).glob("*.arrow")
        file.rename(tmp_path / "arrow" / f"{name}.arrow")
    loose = HfDataset(path=str(tmp_path / "arrow")).open()
    assert loose.split("train800").content_digest() == source.split("train800").content_digest()


@pytest.mark.parametrize("content", [b"", b"not parquet at all", None])
def test_a_damaged_parquet_file_is_one_line(small, tmp_path, content):
    folder = tmp_path / "set"
    folder.mkdir()
    whole = (small / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(whole[: len(whole) // 2] if content is None else content)
    (folder / "test.parquet").write_bytes((small / "test.parquet").read_bytes())
    with pytest.raises(BadInput) as caught:
        HfDataset(path=str(folder)).open()
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_folder_takes_classes_from_its_directories_and_ignores_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for split, count in (("train", 1_000), ("test", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            image = Image.new("RGB", (4, 2), (9, 9, 9) if name == "cat" else (200, 9, 9))
            stream = io.BytesIO()
            image.save(stream, "JPEG", exif=exif)
            for index in range(count):
                (folder / f"{index}.jpg").write_bytes(stream.getvalue())
    spec = HfDataset(path=str(tmp_path / "set"))
    source = spec.open()
    split = source.split("test")
    assert source.class_names == ("cat", "dog")
    assert split.labels.tolist() == [0, 0, 1, 1]
    assert split.read(3).size == (4, 2)
    before = spec.revision()
    (tmp_path / "set" / "test" / "dog" / "1.jpg").rename(tmp_path / "set" / "test" / "cat" / "9.jpg")
    seen = {before, spec.revision()}
    swap_bytes(tmp_path / "set" / "train" / "dog" / "3.jpg")
    seen.add(spec.revision())
    assert len(seen) == 3


@pytest.mark.parametrize("path", [None, "no_such_folder", "/no/such/folder"])
def test_a_missing_path_says_which_option_to_set(path):
    spec = HfDataset(path=path)
    assert spec.inputs() is None
    for ask in (spec.revision, spec.open):
        with pytest.raises(MissingInput, match=r"set dataset\.path=<folder with train\.parquet and test\.parquet>"):
            ask()


def test_an_empty_folder_and_a_text_file(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match="holds no files"):
        HfDataset(path=str(tmp_path / "empty")).revision()
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(BadInput, match="takes a parquet file, a folder or a hub id"):
        HfDataset(path=str(tmp_path / "a.txt")).open()
    with pytest.raises(PeftbenchError, match=str(tmp_path)):
        HfDataset(path=str(tmp_path)).open()


def test_an_unreachable_hub_names_the_command_and_the_offline_variables(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingInput) as caught:
        HfDataset(path="some-owner/some-set").revision()
    for part in (
        "some-owner/some-set",
        "hf download some-owner/some-set --repo-type dataset",
        "HF_HUB_OFFLINE=1",
        "dataset.path=",
    ):
        assert part in str(caught.value)


def test_a_pinned_commit_needs_no_connection():
    commit = "0123456789abcdef0123456789abcdef01234567"
    spec = HfDataset(path="some-owner/some-set", commit=commit)
    assert spec.revision() == f"commit:{commit}"
    assert spec.inputs() == [Path("some-owner/some-set")]
    assert HfDataset(path="some-owner/some-set", commit="main").inputs() is None


def named_by_path(folder: Path, path: str) -> HfDataset:
    """A set with two test rows, the first of which only names its image."""
    write(folder, "train", 20)
    write(folder, "test", 4, cells={0: {"bytes": None, "path": path}})
    return HfDataset(path=str(folder))


def test_images_beside_a_table_are_read_and_belong_to_the_revision(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "x.png").write_bytes(png(77))
    for path in ("images/x.png", str(tmp_path / "set" / "images" / "x.png")):
        spec = named_by_path(tmp_path / "set", path)
        assert row_of(spec.open().split("test").read(0)) == 77
    before = spec.revision()
    swap_bytes(tmp_path / "set" / "images" / "x.png")
    assert spec.revision() != before


@pytest.mark.parametrize("path", ["{}/secret.png", "../secret.png", "images/../../secret.png", "link/../secret.png"])
def test_a_table_names_no_image_outside_its_folder(tmp_path, path):
    (tmp_path / "secret.png").write_bytes(png(1))
    (tmp_path / "deeper").mkdir()
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "link").symlink_to(tmp_path / "deeper")
    split = named_by_path(tmp_path / "set", path.format(tmp_path)).open().split("test")
    with pytest.raises(BadInput, match=r"test row 0: only a path is stored .*leads out of .*set dataset\.path"):
        split.read(0)


@pytest.mark.parametrize("file", ["../x.parquet", "{}/x.parquet"])
def test_a_card_names_no_file_outside_its_folder(small, tmp_path, file):
    write(tmp_path, "x", 20)
    write(tmp_path / "set", "test", 4)
    card = (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {file.format(tmp_path)}\n"
    )
    (tmp_path / "set" / "README.md").write_text(card + "  - split: test\n    path: test*\n---\n")
    with pytest.raises(BadInput, match=r"its README\.md names .*x\.parquet, which is no file of this dataset"):
        HfDataset(path=str(tmp_path / "set")).open()


def test_what_a_card_says_of_splits_belongs_to_the_revision(tmp_path):
    write(tmp_path / "set", "one", 20)
    write(tmp_path / "set", "two", 4)
    spec, seen = HfDataset(path=str(tmp_path / "set")), set()
    for train, test in (("one", "two"), ("two", "one")):
        lines = [
            f"  - split: {split}\n    path: {name}.parquet\n" for split, name in (("train", train), ("test", test))
        ]
        card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{''.join(lines)}---\n# A set\n"
        (tmp_path / "set" / "README.md").write_text(card)
        assert len(spec.open().split("test")) == (4 if test == "two" else 20)
        seen.add(spec.revision())
    assert len(seen) == 2


def test_what_save_to_disk_writes_names_no_file_outside_its_folder(small, tmp_path):
    import datasets

    datasets.load_dataset(str(small), cache_dir=str(tmp_path / "hf")).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "test" / "data-00000-of-00001.arrow").rename(tmp_path / "outside.arrow")
    state = tmp_path / "saved" / "test" / "state.json"
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", "../../outside.arrow"))
    with pytest.raises(BadInput, match=r"test/state\.json names .*outside\.arrow, which is no file of this dataset"):
        HfDataset(path=str(tmp_path / "saved")).open()


def test_a_table_replaced_under_its_name_and_time_is_loaded_anew(tmp_path):
    write(tmp_path / "set", "train", 20)
    write(tmp_path / "set", "test", 4)
    spec, path = HfDataset(path=str(tmp_path / "set")), tmp_path / "set" / "test.parquet"
    assert spec.open().split("test").labels.tolist() == [0, 1, 2, 3]
    before = path.stat()
    write(tmp_path / "set", "test", 4, labels={0: 3})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert spec.open().split("test").labels.tolist() == [3, 1, 2, 3]


@pytest.mark.shared
def test_the_real_cifar10_parquet(shared):
    source = HfDataset(path=str(shared / "data" / "cifar10"), title="cifar10").open()
    assert [len(source.split(name)) for name in SPLITS] == [800, 200, 1_000, 10_000]
    assert source.class_names[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(source.split("test").labels).tolist() == [1_000] * 10
    train = source.split("train800")
    assert train.rows[0] == 16_399
    assert train.read(0).size == (32, 32)


def test_a_half_downloaded_hub_dataset_is_one_line(tmp_path, monkeypatch):
    import datasets
    from huggingface_hub import constants

    # what a broken-off download leaves: the commit is known, its large files are not here
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "datasets--some-owner--some-set"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / ".gitattributes").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    with pytest.raises(MissingInput, match=r"some-owner/some-set: .*hf download some-owner/some-set") as caught:
        HfDataset(path="some-owner/some-set").open()
    assert "\n" not in str(caught.value)


def write_masks(folder: Path, name: str, masks: list[Image.Image]) -> None:
    import datasets

    def encoded(image: Image.Image) -> dict:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    features = datasets.Features({name: datasets.Image(decode=False) for name in ("image", "annotation")})
    pictures = [{"bytes": png(row), "path": None} for row in range(len(masks))]
    cells = {"image": pictures, "annotation": list(map(encoded, masks))}
    table = datasets.Dataset.from_dict(cells, features=features)
    folder.mkdir(exist_ok=True)
    parquet.write_table(table.data.table, folder / f"{name}.parquet")


def mask(*values: int, size=(2, 3)) -> Image.Image:
    return Image.fromarray(np.resize(np.array(values, np.uint8), size))


def test_a_mask_column_stands_in_place_of_labels(tmp_path):
    from peftbench.data.pixels.cache import load_split
    from peftbench.data.pixels.transform import ImageTransform

    for name in ("train", "validation", "test"):
        write_masks(tmp_path / "set", name, [mask(0, 1, 2), mask(2, 255), mask(1)])
    options = {"path": str(tmp_path / "set"), "mask_column": "annotation", "classes": 2, "zero_is_unknown": True}
    source = HfDataset(**options).open()
    assert source.targets == ("class_map",) and source.num_classes == 2
    assert source.split("train").read_map("class_map", 0).ravel()[:3].tolist() == [255, 0, 1]
    assert source.split("trainval").read_map("class_map", 4).ravel()[:2].tolist() == [1, 255]
    split = load_split(source, "trainval", ImageTransform(4), tmp_path / "maps")
    assert split.targets["class_map"].shape == (6, 4, 4)
    plain = HfDataset(**{**options, "zero_is_unknown": False}).open()
    assert plain.split("train").content_digest() != source.split("train").content_digest()
    with pytest.raises(BadInput, match="train row 0: its class_map holds 2; it takes 0 to 1"):
        load_split(plain, "train", ImageTransform(4), tmp_path / "maps")
    with pytest.raises(BadInput, match=r"set dataset\.classes"):
        HfDataset(**{**options, "classes": None}).open()
    with pytest.raises(BadInput, match=r"no column mask; columns are image, annotation"):
        HfDataset(**{**options, "mask_column": "mask"}).open()


def test_a_mask_of_another_size_is_named_by_its_row(tmp_path):
    for name in ("train", "test"):
        write_masks(tmp_path / "set", name, [mask(0, 1), mask(0, size=(2, 2))])
    source = HfDataset(path=str(tmp_path / "set"), mask_column="annotation", classes=2).open()
    with pytest.raises(BadInput, match="train row 1: the mask has 2 x 2 pixels and its image 3 x 2"):
        source.split("trainval").read_map("class_map", 1)
