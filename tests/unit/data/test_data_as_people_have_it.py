"""Lists and folders as people have them are read; advice for those that cannot be read is tested by following it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from peftbench.data.pixels.decode import decode_image
from peftbench.data.sources.csv_files import CsvFiles
from peftbench.data.sources.folder import Folder
from peftbench.data.sources.hf import HfDataset
from peftbench.foundation.errors import BadInput

LABELS = ["cat", "dog", "cat", "dog", "cat", "dog"]
PARTS = ["train", "train", "train", "train", "test", "test"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


def png(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def pictures(folder: Path, names: list[str]) -> None:
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(Image.new("L", (2, 3), index)))


def names(folder: str = "") -> list[str]:
    return [f"{folder}a {index}.png" for index in range(6)]


def advised(error: BadInput) -> dict[str, str]:
    """The options of the dataset that a message tells to set."""
    return dict(re.findall(r"dataset\.(\w+)=([^ ;,)]+)", str(error)))


def labels_of(spec) -> tuple[list[str], list[int]]:
    source = spec.open()
    return [source.class_names[label] for label in source.split("trainval").labels], [
        int(np.asarray(source.split("test").read(index))[0, 0]) for index in range(len(source.split("test")))
    ]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_any_separator_with_a_header_or_none(tmp_path, separator, header):
    pictures(tmp_path, names())
    rows = [("path", "label", "split")] if header else []
    rows += list(zip(names(), LABELS, PARTS, strict=True))
    (tmp_path / "list.txt").write_text("".join(f"{separator.join(row)}\n" for row in rows))
    assert labels_of(CsvFiles(path=str(tmp_path / "list.txt"))) == (["cat", "dog", "cat", "dog"], [4, 5])


def test_a_list_of_paths_and_numbers_between_blanks(tmp_path):
    pictures(tmp_path, names())
    for part, rows in (("train", range(4)), ("test", range(4, 6))):
        (tmp_path / f"{part}.txt").write_text("".join(f"{names()[row]} {row % 2}\n" for row in rows))
    spec = CsvFiles(train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    assert labels_of(spec) == (["0", "1", "0", "1"], [4, 5])


@pytest.mark.parametrize("written", ["/images/", "images/", "../images/"])
def test_the_root_that_a_message_names_is_the_right_one(tmp_path, written):
    pictures(tmp_path / "images", names())
    folder = tmp_path / "lists"
    folder.mkdir()
    before = str(tmp_path) if written[0] == "/" else ""
    rows = zip(names(f"{before}{written}"), LABELS, PARTS, strict=True)
    (folder / "list.csv").write_text("path,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
    spec = CsvFiles(path=str(folder / "list.csv"))
    with pytest.raises(BadInput) as stop:
        spec.open()
    assert set(advised(stop.value)) == {"root"}
    spec = CsvFiles(path=str(folder / "list.csv"), **advised(stop.value))
    assert labels_of(spec) == (["cat", "dog", "cat", "dog"], [4, 5])


def test_the_columns_that_a_message_names_are_the_right_ones(tmp_path):
    pictures(tmp_path, names())
    rows = zip(LABELS, names(), strict=True)
    (tmp_path / "list.csv").write_text("klasse,bild\n" + "".join(f"{','.join(row)}\n" for row in rows))
    with pytest.raises(BadInput, match="none is a known name: klasse, bild") as stop:
        CsvFiles(path=str(tmp_path / "list.csv")).open()
    assert advised(stop.value) == {"path_column": "bild", "label_column": "klasse"}
    listing = CsvFiles(path=str(tmp_path / "list.csv"), **advised(stop.value)).listing()
    assert listing.parts["all"].paths == tuple(names())


def test_a_column_of_parts_is_named_with_the_others(tmp_path):
    pictures(tmp_path, names())
    parts = ["test", "Val", *["train"] * (len(LABELS) - 2)]
    rows = zip(names(), LABELS, parts, strict=True)
    (tmp_path / "list.csv").write_text("datei;klasse;teil\n" + "".join(f"{';'.join(row)}\n" for row in rows))
    with pytest.raises(BadInput, match="none is a known name") as stop:
        CsvFiles(path=str(tmp_path / "list.csv")).open()
    assert advised(stop.value) == {"path_column": "datei", "label_column": "klasse", "split_column": "teil"}
    found = CsvFiles(path=str(tmp_path / "list.csv"), **advised(stop.value)).listing().parts
    counts = {part: len(images.paths) for part, images in found.items()}
    assert counts == {"train": len(LABELS) - 2, "val": 1, "test": 1}


@pytest.mark.parametrize("header", ["id,breed", "path,label", ""])
@pytest.mark.parametrize("inner", ["", "train/"])
def test_paths_without_endings_are_told_so_and_no_header_is_an_image(tmp_path, header, inner):
    pictures(tmp_path, [f"{inner}im{index}_0.png" for index in range(6)])

    def listed(end: str, **options: str) -> CsvFiles:
        rows = [f"im{index}_0{end},{label}\n" for index, label in enumerate(LABELS)]
        (tmp_path / "list.csv").write_text("".join([f"{header}\n"] * bool(header) + rows))
        return CsvFiles(path=str(tmp_path / "list.csv"), **options)

    with pytest.raises(
        BadInput, match=r"'im0_0' lacks its ending, .*im0_0\.png is there; write each path with"
    ) as stop:
        listed("").revision()
    columns = {"path_column": "id", "label_column": "breed"} if header == "id,breed" else {}
    root = {"root": str(tmp_path / "train")} if inner else {}
    assert advised(stop.value) == columns | root
    listing = listed(".png", **advised(stop.value)).listing()
    assert listing.class_names == ("cat", "dog") and len(listing.parts["all"].paths) == 6


def test_images_without_endings_are_read_and_their_header_is_none(tmp_path):
    pictures(tmp_path, ["x.png"])
    for index in range(6):
        (tmp_path / f"im{index}").write_bytes((tmp_path / "x.png").read_bytes())
    rows = "".join(f"im{index},{label}\n" for index, label in enumerate(LABELS))
    (tmp_path / "list.csv").write_text("id,breed\n" + rows)
    (tmp_path / "elsewhere/in/it").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"no image 'im0', with .* dataset\.path_column=id dataset\.label_column=breed"):
        CsvFiles(path=str(tmp_path / "list.csv"), root=str(tmp_path / "elsewhere/in/it")).listing()
    with pytest.raises(BadInput, match="the first line names columns, and none is a known name: id, breed") as stop:
        CsvFiles(path=str(tmp_path / "list.csv")).listing()
    listing = CsvFiles(path=str(tmp_path / "list.csv"), **advised(stop.value)).listing()
    assert listing.parts["all"].paths == tuple(f"im{index}" for index in range(6))


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("path,label,class", "{path},{wrong},{label}", {"label_column": "class"}),
        ("class,path,target", "{label},{path},{wrong}", {"label_column": "class"}),
        ("image,label,filename", "b.png,{label},{path}", {"path_column": "filename"}),
        ("image,label,filename", "x/{path},{label},{path}", {"path_column": "filename"}),
    ],
)
def test_of_two_columns_that_fit_none_is_taken_unasked(tmp_path, header, row, columns):
    pictures(tmp_path, names())
    wrong = ["a", "a", "b", "b", "c", "c"]
    cells = zip(names(), LABELS, wrong, strict=True)
    lines = [row.format(path=path, label=label, wrong=other) for path, label, other in cells]
    (tmp_path / "list.csv").write_text("\n".join([header, *lines]))
    [(option, column)] = columns.items()
    with pytest.raises(BadInput, match=f"differ and may both be the .*dataset.{option}={column}"):
        CsvFiles(path=str(tmp_path / "list.csv")).listing()
    listing = CsvFiles(path=str(tmp_path / "list.csv"), **columns).listing()
    assert (listing.class_names, listing.parts["all"].paths) == (("cat", "dog"), tuple(names()))


def test_columns_that_say_the_same_are_one(tmp_path):
    pictures(tmp_path, names())
    numbers = {"cat": 1, "dog": 0}
    rows = [f"{path},{numbers[label]},{label},{path}" for path, label in zip(names(), LABELS, strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(["image,label,class_name,file", *rows]))
    assert CsvFiles(path=str(tmp_path / "list.csv")).listing().parts["all"].labels.tolist() == [1, 0] * 3
    (tmp_path / "list.csv").write_text("\n".join(["image,label,label,file", *rows]))
    assert CsvFiles(path=str(tmp_path / "list.csv")).listing().class_names == ("0", "1")


@pytest.mark.parametrize("options", [{}, {"label_column": "label"}])
def test_one_name_of_two_columns_that_differ_is_refused(tmp_path, options):
    pictures(tmp_path, names())
    rows = [f"{path},{label},{index}" for index, (path, label) in enumerate(zip(names(), LABELS, strict=True))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,label", *rows]))
    with pytest.raises(BadInput, match="two columns that differ are called 'label'; give one of them another name"):
        CsvFiles(path=str(tmp_path / "list.csv"), **options).listing()


@pytest.mark.parametrize("number", [6, 40, 700, 1000])
def test_the_numbers_that_a_message_names_do_divide_a_small_folder(tmp_path, number):
    pictures(tmp_path / "mine", [f"{'ab'[index % 2]}/{index}.png" for index in range(number)])
    with pytest.raises(BadInput, match="protocol=full") as stop:
        Folder(root=str(tmp_path / "mine")).open()
    numbers = {name: int(value) for name, value in advised(stop.value).items()}
    source = Folder(root=str(tmp_path / "mine"), **numbers).open()
    sizes = [len(source.split(name)) for name in ("train", "val", "test")]
    assert sum(sizes) == number and min(sizes) > 0
    assert set(source.split("trainval").labels.tolist()) == {0, 1}


def test_links_are_followed_where_that_is_asked_for(tmp_path):
    pictures(tmp_path / "store", ["x/a.png", "x/b.png"])
    for part in ("train", "test"):
        pictures(tmp_path / "mine" / part, ["cat/a.png", "dog/a.png"])
    (tmp_path / "mine/train/cat/link.png").symlink_to(tmp_path / "store/x/a.png")
    (tmp_path / "mine/train/bird").symlink_to(tmp_path / "store/x")
    (tmp_path / "mine/test/bird").symlink_to(tmp_path / "store/x")
    with pytest.raises(BadInput, match="follow_links=true"):
        Folder(root=str(tmp_path / "mine")).open()
    source = Folder(root=str(tmp_path / "mine"), follow_links=True).open()
    assert (source.class_names, len(source.split("trainval"))) == (("bird", "cat", "dog"), 5)
    (tmp_path / "mine/train/cat/up").symlink_to(tmp_path / "mine")
    with pytest.raises(BadInput, match="a folder above it"):
        Folder(root=str(tmp_path / "mine"), follow_links=True).open()


def divided(root: Path, image: Image.Image, **options: object) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / "a.png").write_bytes(png(Image.new("L", (2, 3), 7)))
    (root / "train" / "cat" / "b.png").write_bytes(png(image, **options))


def test_rotation_by_exif_is_warned_about_and_applied_on_request(tmp_path):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    divided(tmp_path, Image.fromarray(pixels), exif=exif)
    ignoring = Folder(root=str(tmp_path)).open()
    assert (
        "1 of 5 images looked at are to be turned" in ignoring.notes[0]
        and "dataset.apply_exif=true" in ignoring.notes[0]
    )
    turned = Folder(root=str(tmp_path), apply_exif=True).open()
    assert turned.notes == ()
    before, after = (np.asarray(source.split("trainval").read(1)) for source in (ignoring, turned))
    assert np.array_equal(before, pixels) and np.array_equal(after, np.rot90(pixels, -1))
    # the image cache tells the two apart, and so does the fingerprint
    assert ignoring.split("trainval").content_digest() != turned.split("trainval").content_digest()
    assert "apply_exif" in Folder(apply_exif=True).identity() and "apply_exif" not in Folder().identity()


def test_16_bit_images_are_scaled_with_a_warning(tmp_path):
    pixels = np.array([[0, 257, 65535], [128, 129, 32768]], dtype=np.uint16)
    divided(tmp_path, Image.fromarray(pixels))
    source = Folder(root=str(tmp_path)).open()
    assert "1 of 5 images looked at have 16 bits" in source.notes[0]
    # 65535 is 255, so one step is 257
    assert np.asarray(source.split("trainval").read(1)).tolist() == [[0, 1, 255], [0, 1, 128]]


def test_floating_point_images_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(stream, "TIFF")
    with pytest.raises(BadInput, match="more than 8 bits"):
        decode_image(stream.getvalue(), "x.tif")


def test_labels_of_parquet_may_be_words(tmp_path):
    image = png(Image.new("L", (2, 2)))
    for part, words in (("train", ["dog", "cat", "ant"]), ("test", ["cat", "dog"])):
        cells = [{"bytes": image, "path": None}] * len(words)
        pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": words}), tmp_path / f"{part}.parquet")
    source = HfDataset(path=str(tmp_path)).open()
    assert source.class_names == ("ant", "cat", "dog")
    assert source.parts["train"].labels.tolist() == [2, 1, 0] and source.parts["test"].labels.tolist() == [1, 2]


def tables(folder: Path, **columns: list) -> str:
    """A new folder with train.parquet and test.parquet of these columns; `image` unless it is among them."""
    folder.mkdir()
    columns = {"image": [{"bytes": data, "path": None} for data in numbered()], **columns}
    for part in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{part}.parquet")
    return str(folder)


def numbered() -> list[bytes]:
    """Six pictures; each shows its place."""
    return [png(Image.new("L", (2, 2), index)) for index in range(6)]


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_bytes_in_a_column_of_parquet_are_images(tmp_path, kind):
    of_bytes = tables(tmp_path / "bytes", image=pyarrow.array(numbered(), kind), label=LABELS)
    source = HfDataset(path=of_bytes).open()
    of_cells = HfDataset(path=tables(tmp_path / "cells", label=LABELS)).open()
    assert [np.asarray(source.parts["test"].read(row))[0, 0] for row in range(6)] == list(range(6))
    assert source.parts["test"].content_digest() == of_cells.parts["test"].content_digest()


@pytest.mark.parametrize(("pictures_in", "advice"), [("scan", "set dataset.image_column=scan"), ("", "dataset=csv")])
def test_a_column_without_images_is_answered_with_the_one_that_holds_them(tmp_path, pictures_in, advice):
    others = {pictures_in: numbered()} if pictures_in else {}
    place = tables(tmp_path / "set", image=names(), label=LABELS, **others)
    with pytest.raises(BadInput, match=f"column image holds no images .*{advice}") as stop:
        HfDataset(path=place).open()
    if pictures_in:
        assert len(HfDataset(path=place, **advised(stop.value)).open().parts["train"]) == 6


def test_a_column_without_masks_is_answered_with_the_option_of_masks(tmp_path):
    place = tables(tmp_path / "set", mask=LABELS)
    with pytest.raises(BadInput, match=r"column mask holds no images .*set dataset\.mask_column=image"):
        HfDataset(path=place, mask_column="mask", classes=3).open()


def test_of_two_columns_of_parquet_that_fit_none_is_taken_unasked(tmp_path):
    numbers = [int(label == "cat") for label in LABELS]
    same = tables(tmp_path / "same", label=LABELS, labels=numbers)
    assert HfDataset(path=same).open().class_names == ("cat", "dog"), "numbers and their names say the same"
    place = tables(tmp_path / "labels", label=list("aabbcc"), fine_label=LABELS)
    with pytest.raises(BadInput, match=r"columns label and fine_label differ .*dataset\.label_column=fine_label"):
        HfDataset(path=place).open()
    assert HfDataset(path=place, label_column="fine_label").open().class_names == ("cat", "dog")
    place = tables(tmp_path / "images", label=LABELS, img=numbered()[::-1])
    with pytest.raises(BadInput, match=r"columns image and img differ .*dataset\.image_column=img"):
        HfDataset(path=place).open()


def test_an_index_of_pandas_in_one_table_is_no_column_and_others_are_named(tmp_path):
    place = tables(tmp_path / "set", label=LABELS)
    table = pyarrow.parquet.read_table(f"{place}/test.parquet")
    indexed = table.append_column("__index_level_0__", pyarrow.array(range(6)))
    pyarrow.parquet.write_table(indexed, f"{place}/test.parquet")
    source = HfDataset(path=place).open()
    assert source.parts["test"].labels.tolist() == [0, 1, 0, 1, 0, 1] and len(source.parts["train"]) == 6
    pyarrow.parquet.write_table(indexed.append_column("score", pyarrow.array(range(6))), f"{place}/test.parquet")
    with pytest.raises(BadInput, match=r"test\.parquet has .*score, which train\.parquet has not; write all tables"):
        HfDataset(path=place).open()


def test_classes_that_differ_by_case_are_named(tmp_path):
    for part in ("train", "test"):
        pictures(tmp_path / part, ["Cat/a.png", "cat/b.png"])
    assert "'Cat' and 'cat'" in Folder(root=str(tmp_path)).open().notes[0]


def test_a_text_too_long_for_a_path_is_an_image_that_is_not_there(tmp_path):
    rows = [f"{'word ' * 80}{row},{'ab'[row % 2]}\n" for row in range(6)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))
    with pytest.raises(BadInput, match=r"none of the 6 listed images is there"):
        CsvFiles(path=str(tmp_path / "list.csv")).open()


def test_a_damaged_table_is_named(tmp_path):
    place = tables(tmp_path / "set", label=LABELS)
    (tmp_path / "set" / "test.parquet").write_bytes(b"")
    with pytest.raises(BadInput, match=r"test\.parquet is no whole parquet file"):
        HfDataset(path=place).open()


@pytest.mark.parametrize("more", [{"img": ["a.png", "b.png"] * 3}, {"labels": pyarrow.array([None] * 6, "string")}])
def test_of_two_columns_the_one_that_can_be_meant_is_taken(tmp_path, more):
    source = HfDataset(path=tables(tmp_path / "set", label=LABELS, **more)).open()
    assert source.class_names == ("cat", "dog") and len(source.parts["train"]) == 6
