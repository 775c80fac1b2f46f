"""Lists and parquet files of images as people have them, each with one thing wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet

from tests.bad_inputs.images import png


def listed(place: Path, text: str, num_images: int = 6) -> Path:
    """A list with this text beside num_images pictures a0.png, a1.png, ..."""
    place.mkdir()
    for index in range(num_images):
        (place / f"a{index}.png").write_bytes(png(index))
    path = place / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(label: str = "{label}", num_rows: int = 6, form: str = "a{index}.png,{label},{part}\n") -> str:
    parts = ["train", "train", "train", "train", "test", "test"]
    return "".join(
        form.format(index=index, label=label.format(label=index % 2), part=parts[index % 6])
        for index in range(num_rows)
    )


# lists


def make_csv_one_class(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows("0"))


def make_csv_one_name(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows("cat"))


def make_csv_empty(place: Path) -> Path:
    return listed(place, "")


def make_csv_header_only(place: Path) -> Path:
    return listed(place, "path,label\n")


def make_csv_unknown_header(place: Path) -> Path:
    return listed(place, "bild,klasse\n" + rows(form="a{index}.png,{label}\n"))


def make_csv_half_known(place: Path) -> Path:
    return listed(place, "path,klasse\n" + rows(form="a{index}.png,{label}\n"))


def make_csv_phase(place: Path) -> Path:
    return listed(place, "path,label,phase\n" + rows())


def make_csv_two_splits(place: Path) -> Path:
    return listed(place, "path,label,split,subset\n" + rows(form="a{index}.png,{label},{part},train\n"))


def make_csv_breed(place: Path) -> Path:
    return listed(place, "path,breed,part_of,quality\n" + rows(form="a{index}.png,{label},{part},good\n"))


def make_csv_good(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows())


def make_csv_few(place: Path) -> Path:
    return listed(place, rows(form="a{index}.png {label}\n"))


def make_csv_absolute(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(form="/data/elsewhere/a{index}.png,{label},{part}\n"))


def make_csv_climbing(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(form="../a{index}.png,{label},{part}\n"))


def make_csv_wrong_root(place: Path) -> Path:
    text = "path,label,split\n" + rows(form="images/a{index}.png,{label},{part}\n")
    return listed(place, text)


def make_csv_some_missing(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=12))


def make_csv_multi_label(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png,0|1,test\n")


def make_csv_multi_names(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows("cat{label}", 5) + "a5.png,cat0|cat1,test\n")


def make_csv_list_label(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows("x{label}", 5) + 'a5.png,"[0, 1]",test\n')


def make_csv_mixed_labels(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png,dog,test\n")


def make_csv_long_label(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + f"a5.png,{'9' * 5000},test\n")


def make_csv_negative(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png,-1,test\n")


def make_csv_float_labels(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png,0.5,test\n")


def make_csv_no_label(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png,,test\n")


def make_csv_short_row(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png\n")


def make_csv_wrong_part(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(num_rows=5) + "a5.png,1,holdout\n")


def make_csv_no_train(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows(form="a{index}.png,{label},test\n"))


def make_csv_twice(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows() + "a5.png,1,test\n")


def make_csv_quote(place: Path) -> Path:
    return listed(place, 'path,label,split\n"a0.png,0,train\n' + rows())


def make_csv_latin(place: Path) -> Path:
    path = listed(place, "")
    path.write_bytes("path,label\nä.png,0\n".encode("latin-1"))
    return path


def make_csv_utf16(place: Path) -> Path:
    path = listed(place, "")
    path.write_bytes(("path,label,split\n" + rows()).encode("utf-16"))
    return path


def make_csv_case_classes(place: Path) -> Path:
    return listed(place, "path,label,split\n" + rows("cat", 5) + "a5.png,Cat,test\n")


def make_csv_bars(place: Path) -> Path:
    return listed(place, "path|label\n" + rows(form="a{index}.png|{label}\n"))


def make_csv_bars_bare(place: Path) -> Path:
    return listed(place, rows(form="a{index}.png|{label}\n"))


def make_csv_json(place: Path) -> Path:
    return listed(place, '[\n {"path": "a0.png", "label": 0},\n {"path": "a1.png", "label": 1}\n]\n')


def make_csv_json_lines(place: Path) -> Path:
    return listed(place, rows(form='{{"path": "a{index}.png", "label": {label}}}\n'))


def make_csv_addresses(place: Path) -> Path:
    return listed(place, "path,label\n" + rows(form="https://x.y/a{index}.png,{label}\n"))


def make_csv_no_endings(place: Path) -> Path:
    return listed(place, "id,breed\n" + rows(form="a{index},{label}\n"))


def make_csv_two_labels(place: Path) -> Path:
    return listed(place, "path,label,class\n" + rows(form="a{index}.png,{label},c\n"))


def make_csv_number_twins(place: Path) -> Path:
    return listed(place, "path,label\n" + rows(num_rows=5, form="a{index}.png,{label}\n") + "a5.png,01\n")


# parquet


def parquet(place: Path, labels: pyarrow.Array, images: pyarrow.Array | None = None, parts: str = "train test") -> None:
    place.mkdir()
    cells = [{"bytes": png(index), "path": None} for index in range(len(labels))]
    table = pyarrow.table({"image": pyarrow.array(cells) if images is None else images, "label": labels})
    for part in parts.split():
        pyarrow.parquet.write_table(table, place / f"{part}.parquet")


def make_hf_huge_label(place: Path) -> None:
    parquet(place, pyarrow.array([0, 1, 2**40]))


def make_hf_negative(place: Path) -> None:
    parquet(place, pyarrow.array([0, 1, -1]))


def make_hf_float(place: Path) -> None:
    parquet(place, pyarrow.array([0.0, 1.0, 0.5]))


def make_hf_gaps(place: Path) -> None:
    parquet(place, pyarrow.array([0, 1, None]))


def make_hf_lists(place: Path) -> None:
    parquet(place, pyarrow.array([[0], [1], [0, 1]]))


def make_hf_multi_names(place: Path) -> None:
    parquet(place, pyarrow.array(["cat", "dog", "cat|dog"]))


def make_hf_one_class(place: Path) -> None:
    parquet(place, pyarrow.array([0, 0, 0]))


def make_hf_no_images(place: Path) -> None:
    parquet(place, pyarrow.array([0, 1, 0]), pyarrow.array(["a.png", "b.png", "c.png"]))


def make_hf_two_labels(place: Path) -> None:
    place.mkdir()
    cells = [{"bytes": png(index), "path": None} for index in range(4)]
    table = pyarrow.table({"image": cells, "label": [0, 1, 2, 3], "labels": [0, 0, 1, 1]})
    for part in ("train", "test"):
        pyarrow.parquet.write_table(table, place / f"{part}.parquet")


def make_hf_no_test(place: Path) -> None:
    parquet(place, pyarrow.array([0, 1, 0]), parts="train")


def make_hf_half_file(place: Path) -> None:
    parquet(place, pyarrow.array([0, 1, 0]))
    path = place / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def make_hf_text_file(place: Path) -> None:
    place.mkdir()
    for part in ("train", "test"):
        (place / f"{part}.parquet").write_text("not parquet")
