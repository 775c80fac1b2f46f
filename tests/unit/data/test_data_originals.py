"""VTAB's official samples rebuilt from small made-up originals, laid out as torchvision unpacks them."""

import dataclasses
import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.data.vtab import original as vtab_original
from peftbench.data.vtab.dataset import Vtab
from peftbench.data.vtab.original import VtabOriginal
from peftbench.data.vtab.originals import arrays
from peftbench.data.vtab.originals.facts import ORIGINALS, UNAVAILABLE
from peftbench.data.vtab.originals.scenes import kitti_label, kitti_splits, nearest_bin
from peftbench.data.vtab.originals.tfrecord import scan
from peftbench.data.vtab.tasks import VTAB_TASKS
from peftbench.foundation.errors import BadInput, ConfigError, MissingInput
from tests.own_images import swap_bytes

# TFDS split -> [(key, label, grey level of the picture)]
Expected = dict[str, list[tuple[str, int, int]]]


def picture(level: int, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (level % 256,) * 3).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(level, "png") for level in range(256)]


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def in_order(split: str, examples: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """TFDS's rule, written down once more: ascending MD5 of split name and key."""
    return sorted(examples, key=lambda example: hashlib.md5(f"{split}{example[0]}".encode()).digest())


def opened(monkeypatch, task: str, root: Path, expected: Expected):
    counts = {split: len(examples) for split, examples in expected.items()}
    small = dataclasses.replace(ORIGINALS[task], counts=counts, probes=None)
    monkeypatch.setitem(ORIGINALS, task, small)
    return VtabOriginal(task=task, originals=str(root)).open()


def check(source, expected: Expected, val: tuple[str, int], test: tuple[str, int], pixel=lambda level: level) -> None:
    ordered = {split: in_order(split, examples) for split, examples in expected.items()}
    start = {
        split: [len(examples) * percent // 100 for percent in (val[1], test[1])] for split, examples in ordered.items()
    }
    wanted = {
        "train800": ordered["train"][:800],
        "val200": ordered[val[0]][start[val[0]][0] :][:200],
        "test": ordered[test[0]][start[test[0]][1] :],
    }
    wanted["train800val200"] = wanted["train800"] + wanted["val200"]
    for name, examples in wanted.items():
        split = source.split(name)
        assert split.labels.tolist() == [label for _, label, _ in examples], name
        for row in (0, len(examples) // 2, len(examples) - 1):
            assert np.asarray(split.read(row)).flat[0] == pixel(examples[row][2]), (name, row)
        assert len(split.content_digest()) == 64
    assert source.pixels == "original"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


def test_every_task_is_rebuilt_or_the_reason_is_known():
    assert {*ORIGINALS, *UNAVAILABLE, "cifar100"} == set(VTAB_TASKS)
    with pytest.raises(MissingInput, match=r"Kaggle.*processed folder"):
        VtabOriginal(task="diabetic_retinopathy").open()


@pytest.mark.parametrize(
    ("task", "first_val", "first_test"),
    [
        ("caltech101", 2_754, 0),
        ("oxford_iiit_pet", 2_944, 0),
        ("svhn", 65_931, 0),
        ("eurosat", 16_200, 21_600),
        ("resisc45", 18_900, 25_200),
        ("clevr_count", 63_000, 0),
        ("dsprites_loc", 589_824, 663_552),
        ("smallnorb_azi", 0, 12_150),
        ("dtd", 0, 0),
        ("sun397", 0, 0),
    ],
)
def test_the_slices_are_those_of_the_reference(task, first_val, first_test):
    original = ORIGINALS[task]
    places = [original.counts[split] * percent // 100 for split, percent in (original.val, original.test)]
    assert places == [first_val, first_test]
    num_test = original.counts[original.test[0]] - first_test
    assert num_test in VTAB_TASKS[task].num_test


def test_dtd(tmp_path, monkeypatch):
    expected: Expected = {}
    for split, name, num in (("train", "train", 18), ("validation", "val", 5), ("test", "test", 2)):
        expected[split] = [
            (f"class{label:02d}/class{label:02d}_{name}{i:04d}.jpg", label, 5 * label)
            for label in range(47)
            for i in range(num)
        ]
        put(tmp_path / f"dtd/dtd/labels/{name}1.txt", "".join(f"{key}\n" for key, _, _ in expected[split]))
        for key, _, level in expected[split]:
            put(tmp_path / "dtd/dtd/images" / key, PICTURES[level])
    source = opened(monkeypatch, "dtd", tmp_path, expected)
    check(source, expected, ("validation", 0), ("test", 0))
    assert source.class_names[:2] == ("class00", "class01")
    assert (source.membership, source.test) == ("vtab1k-official:rebuilt", "official:94")


def test_flowers_labels_begin_at_zero(tmp_path, monkeypatch):
    from scipy.io import savemat

    numbers = np.arange(1, 1_301)
    labels = (numbers * 7) % 102 + 1
    parts = {"trnid": numbers[:900], "valid": numbers[900:1_150], "tstid": numbers[1_150:]}
    folder = tmp_path / "flowers-102"
    for number in numbers:
        put(folder / f"jpg/image_{number:05d}.jpg", PICTURES[number % 256])
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    savemat(folder / "setid.mat", parts)
    expected: Expected = {
        split: [(f"image_{number:05d}.jpg", (number * 7) % 102, number % 256) for number in parts[name].tolist()]
        for split, name in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))
    }
    check(opened(monkeypatch, "oxford_flowers102", tmp_path, expected), expected, ("validation", 0), ("test", 0))


def test_pets_are_labelled_by_breed(tmp_path, monkeypatch):
    expected: Expected = {}
    for split, name, num in (("train", "trainval", 30), ("test", "test", 3)):
        rows = [(f"Breed_of_{breed}_{i}", breed, i) for breed in range(1, 38) for i in range(num)]
        text = "# image class species breed\n" + "".join(f"{stem} {breed} 2 {i}\n" for stem, breed, i in rows)
        put(tmp_path / f"oxford-iiit-pet/annotations/{name}.txt", text)
        expected[split] = [(f"{stem}.jpg", breed - 1, 6 * breed) for stem, breed, _ in rows]
        for key, _, level in expected[split]:
            put(tmp_path / "oxford-iiit-pet/images" / key, PICTURES[level])
    source = opened(monkeypatch, "oxford_iiit_pet", tmp_path, expected)
    check(source, expected, ("train", 80), ("test", 0))
    assert source.class_names[4] == "Breed_of_5"


def class_folder_original(root: Path, names: list[str], num: int) -> Expected:
    rows = []
    for label, name in enumerate(names):
        for i in range(num):
            put(root / name / f"{name}_{i}.jpg", PICTURES[20 * label % 256])
            rows.append((f"{name}_{name}_{i}.jpg", label, 20 * label % 256))
    return {"train": rows}


def test_eurosat_and_resisc45_count_the_class_twice_in_the_key(tmp_path, monkeypatch):
    names = sorted(["AnnualCrop", "Forest", "Highway", "Pasture", "River", "SeaLake", "Residential", "A", "B", "C"])
    expected = class_folder_original(tmp_path / "eurosat/2750", names, 140)
    check(opened(monkeypatch, "eurosat", tmp_path, expected), expected, ("train", 60), ("train", 80))
    names = ["airplane", *(f"class{i:02d}" for i in range(44))]
    expected = class_folder_original(tmp_path / "NWPU-RESISC45", names, 32)
    check(opened(monkeypatch, "resisc45", tmp_path, expected), expected, ("train", 60), ("train", 80))


@pytest.mark.slow
def test_sun397_follows_the_lists_of_tfds(tmp_path, monkeypatch):
    expected: Expected = {}
    for split, name, num in (("train", "tr", 3), ("validation", "va", 1), ("test", "te", 1)):
        places = [f"/{'abc'[label % 3]}/place{label:03d}" for label in range(397)]
        numbers = {place: number for number, place in enumerate(sorted(places))}
        expected[split] = [
            (f"{place}/sun_{name}{i}.jpg", numbers[place], numbers[place] % 256) for place in places for i in range(num)
        ]
        put(tmp_path / f"SUN397/sun397_tfds_{name}.txt", "".join(f"{key[1:]}\n" for key, _, _ in expected[split]))
        for key, _, level in expected[split]:
            put(tmp_path / f"SUN397{key}", PICTURES[level])
    source = opened(monkeypatch, "sun397", tmp_path, expected)
    check(source, expected, ("validation", 0), ("test", 0))
    assert any("re-encoded" in note for note in source.notes)


def test_svhn_calls_ten_zero_and_keeps_the_axes_straight(tmp_path, monkeypatch):
    from scipy.io import savemat

    expected: Expected = {}
    for split, num in (("train", 1_200), ("test", 30)):
        images = np.zeros((32, 32, 3, num), np.uint8)
        images[0, 0, 0] = np.arange(num) % 256
        digits = np.arange(num) % 10 + 1
        savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": digits[:, None]}, do_compression=True)
        expected[split] = [(str(i), int(digits[i]) % 10, i % 256) for i in range(num)]
    check(opened(monkeypatch, "svhn", tmp_path, expected), expected, ("train", 90), ("test", 0))


def test_damaged_matlab_files_have_their_line(tmp_path):
    for split in ("train", "test"):
        put(tmp_path / f"{split}_32x32.mat", b"junk")
    with pytest.raises(BadInput, match=r"train_32x32\.mat: it is no Matlab file up to version 7\.2"):
        VtabOriginal(task="svhn", originals=str(tmp_path)).open()
    for name in ("imagelabels", "setid"):
        put(tmp_path / f"flowers-102/{name}.mat", b"")
    (tmp_path / "flowers-102/jpg").mkdir()
    with pytest.raises(BadInput, match=r"imagelabels\.mat: it is no Matlab file"):
        VtabOriginal(task="oxford_flowers102", originals=str(tmp_path)).open()


def test_patch_camelyon(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py", reason="needs the extra 'originals'")
    expected: Expected = {}
    for split, name, num in (("train", "train", 900), ("validation", "valid", 250), ("test", "test", 20)):
        images = np.zeros((num, 4, 4, 3), np.uint8)
        images[:, 0, 0, 0] = np.arange(num) % 256
        labels = np.arange(num) // 3 % 2
        for part, values in (("x", images), ("y", labels.reshape(-1, 1, 1, 1))):
            path = tmp_path / f"pcam/camelyonpatch_level_2_split_{name}_{part}.h5"
            path.parent.mkdir(exist_ok=True)
            with h5py.File(path, "w") as file:
                file[part] = values
        expected[split] = [(f"{name}_{i}", int(labels[i]), i % 256) for i in range(num)]
    check(opened(monkeypatch, "patch_camelyon", tmp_path, expected), expected, ("validation", 0), ("test", 0))


@pytest.mark.parametrize("task", ["dsprites_loc", "dsprites_ori"])
def test_dsprites_bins(tmp_path, monkeypatch, task):
    shape = (1, 1, 40, 32, 2)
    monkeypatch.setattr(arrays, "DSPRITES_SHAPE", shape)
    num = int(np.prod(shape))
    factors = np.stack(np.unravel_index(np.arange(num), shape), 1)
    images = np.zeros((num, 4, 4), np.uint8)
    images[:, 0, 0] = factors[:, 2] % 2
    (tmp_path / "dsprites").mkdir()
    classes = np.concatenate([np.zeros((num, 1), np.int64), factors], 1)
    np.savez_compressed(tmp_path / "dsprites" / arrays.DSPRITES_FILE, imgs=images, latents_classes=classes)
    # 40 angles in 16 bins: 0 1 2 | 3 4 | 5 6 7 | 8 9 | ...
    widths = [3, 2] * 8
    bin_of_angle = [label for label, width in enumerate(widths) for _ in range(width)]
    label = {"dsprites_loc": lambda f: f[3] // 2, "dsprites_ori": lambda f: bin_of_angle[f[2]]}[task]
    expected: Expected = {"train": [(str(i), int(label(f)), int(f[2] % 2)) for i, f in enumerate(factors.tolist())]}
    source = opened(monkeypatch, task, tmp_path, expected)
    check(source, expected, ("train", 80), ("train", 90), pixel=lambda level: 255 * level)
    np.savez(tmp_path / "dsprites" / arrays.DSPRITES_FILE, imgs=images, latents_classes=classes[::-1])
    with pytest.raises(BadInput, match="published order"):
        VtabOriginal(task=task, originals=str(tmp_path)).open()


def norb(values: np.ndarray) -> bytes:
    code = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[values.dtype.name]
    sizes = [*values.shape, *[1] * (3 - values.ndim)]
    return np.array([code, values.ndim, *sizes], "<i4").tobytes() + values.tobytes()


@pytest.mark.parametrize(("task", "column", "step"), [("smallnorb_azi", 2, 2), ("smallnorb_ele", 1, 1)])
def test_smallnorb_uses_the_first_camera(tmp_path, monkeypatch, task, column, step):
    expected: Expected = {}
    for split, stem, num in (
        ("train", "smallnorb-5x46789x9x18x6x2x96x96-training", 900),
        ("test", "smallnorb-5x01235x9x18x6x2x96x96-testing", 420),
    ):
        images = np.full((num, 2, 4, 4), 255, np.uint8)
        images[:, 0] = (np.arange(num) % 200)[:, None, None]
        info = np.stack([np.arange(num) % 10, np.arange(num) % 9, 2 * (np.arange(num) % 18), np.zeros(num)], 1)
        put(tmp_path / f"smallnorb/{stem}-dat.mat.gz", gzip.compress(norb(images), 1))
        put(tmp_path / f"smallnorb/{stem}-info.mat", norb(info.astype(np.int32)))
        expected[split] = [(str(i), int(info[i, column]) // step, i % 200) for i in range(num)]
    check(opened(monkeypatch, task, tmp_path, expected), expected, ("test", 0), ("test", 50))
    put(tmp_path / "smallnorb/smallnorb-5x01235x9x18x6x2x96x96-testing-info.mat", norb(np.zeros((9, 4), np.int32))[:-8])
    with pytest.raises(BadInput, match=r"testing-info\.mat: not a complete smallNORB file"):
        VtabOriginal(task=task, originals=str(tmp_path)).open()


def clevr_original(root: Path) -> dict[str, list[tuple[str, list[float]]]]:
    scenes: dict[str, list[tuple[str, list[float]]]] = {}
    for name, num in (("train", 1_100), ("val", 12)):
        chance = np.random.RandomState(num)
        scenes[name] = [
            (f"CLEVR_{name}_{i:06d}.png", (7.5 + chance.randint(0, 14, 3 + i % 8) / 4).tolist()) for i in range(num)
        ]
        stored = [
            {"image_filename": key, "objects": [{"pixel_coords": [1.0, 2.0, depth]} for depth in depths]}
            for key, depths in scenes[name]
        ]
        put(root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{name}_scenes.json", json.dumps({"info": {}, "scenes": stored}))
        for i, (key, _) in enumerate(scenes[name]):
            put(root / f"clevr/CLEVR_v1.0/images/{name}/{key}", PICTURES[i % 256])
    return scenes


def test_clevr_count_and_distance(tmp_path, monkeypatch):
    scenes = clevr_original(tmp_path)

    def distance_label(depth: float) -> int:
        ends = [8.0, 8.5, 9.0, 9.5, 10.0, float("inf")]
        return next(label for label, end in enumerate(ends) if depth <= end)

    labels = {"clevr_count": lambda depths: len(depths) - 3, "clevr_dist": lambda depths: distance_label(min(depths))}
    digests = set()
    for task, label in labels.items():
        expected: Expected = {
            split: [(key, label(depths), i % 256) for i, (key, depths) in enumerate(scenes[name])]
            for split, name in (("train", "train"), ("validation", "val"))
        }
        source = opened(monkeypatch, task, tmp_path, expected)
        check(source, expected, ("train", 90), ("validation", 0))
        digests.add(source.split("train800").content_digest())
    assert len(digests) == 1, "two tasks on the same images share one cache entry"


def test_a_distance_on_an_upper_end_stays_in_its_bin():
    assert [nearest_bin([20.0, value], (8.0, 8.5)) for value in (7.9, 8.0, 8.01, 8.5, 8.51)] == [0, 0, 1, 1, 2]


def kitti_line(kind: str, z: float) -> str:
    return f"{kind} 0.00 0 -1.0 0 0 1 1 1.5 1.6 3.9 1.0 1.5 {z} 0.1"


def test_kitti_label_looks_at_vehicles_only():
    assert kitti_label([kitti_line("Car", 30.0), kitti_line("Van", 8.0), kitti_line("Pedestrian", 2.0)]) == 0
    assert kitti_label([kitti_line("Truck", 20.0)]) == 1
    assert kitti_label([kitti_line("Car", 20.5), kitti_line("Tram", 3.0)]) == 2
    assert kitti_label([kitti_line("Cyclist", 2.0), kitti_line("DontCare", -1000.0)]) == 3
    assert kitti_label([]) == 3


def test_kitti_splits_keep_videos_whole():
    videos = [f"2011_09_26_drive_{number % 40:04d}_sync" for number in range(1_000)]
    splits = kitti_splits(videos)
    by_split = {name: {videos[number] for number in numbers} for name, numbers in splits.items()}
    assert [len(by_split[name]) for name in ("train", "validation", "test")] == [32, 4, 4]
    assert sorted(number for numbers in splits.values() for number in numbers) == list(range(1_000))
    state = np.random.RandomState(123)
    assert by_split["test"] == set(state.choice(sorted(set(videos)), 4, replace=False))


def test_kitti(tmp_path, monkeypatch):
    num, raw = 1_500, tmp_path / "Kitti/raw"
    order = np.random.RandomState(1).permutation(num) + 1
    drives = [f"2011_09_26_drive_{line % 50:04d}_sync" for line in range(num)]
    put(raw / "devkit_object/mapping/train_rand.txt", ",".join(map(str, order)) + "\n")
    put(
        raw / "devkit_object/mapping/train_mapping.txt",
        "".join(f"2011_09_26 {drive} {i:010d}\n" for i, drive in enumerate(drives)),
    )
    far = [4.0, 15.0, 40.0]
    for number in range(num):
        put(raw / f"training/image_2/{number:06d}.png", PICTURES[number % 256])
        label = number % 4
        put(raw / f"training/label_2/{number:06d}.txt", "" if label == 3 else kitti_line("Car", far[label]))
    numbers = kitti_splits([drives[line - 1] for line in order])
    expected: Expected = {
        split: [(f"{number:06d}.png", number % 4, number % 256) for number in chosen]
        for split, chosen in numbers.items()
    }
    check(opened(monkeypatch, "kitti", tmp_path, expected), expected, ("validation", 0), ("test", 0))
    for name in ("train_rand.txt", "train_mapping.txt"):
        (raw / "devkit_object/mapping" / name).unlink()
    with pytest.raises(MissingInput, match=r"devkit_object\.zip"):
        VtabOriginal(task="kitti", originals=str(tmp_path)).open()


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def record(image: bytes, name: str, label: int, packed: bool = True) -> bytes:
    """A TFRecord of one tf.train.Example, built from the wire format."""
    number = field(1, varint(label)) if packed else bytes([8]) + varint(label)
    features = {
        "image": field(1, field(1, image)),
        "filename": field(1, field(1, name.encode())),
        "label": field(3, number),
    }
    entries = b"".join(field(1, field(1, key.encode()) + field(2, feature)) for key, feature in features.items())
    message = field(1, entries)
    return len(message).to_bytes(8, "little") + b"CRC1" + message + b"CRC2"


def test_dmlab_reads_tfrecords(tmp_path, monkeypatch):
    expected: Expected = {}
    for split, num in (("train", 850), ("validation", 210), ("test", 10)):
        rows = [(f"{split}-frame-{i}.jpg", i % 6, i % 256) for i in range(num)]
        data = [record(PICTURES[level] + b"\0" * 200, key, label, label % 2 == 0) for key, label, level in rows]
        put(tmp_path / f"dmlab/dmlab-{split}.tfrecord-00000-of-00002", b"".join(data[: num // 2]))
        put(tmp_path / f"dmlab/dmlab-{split}.tfrecord-00001-of-00002", b"".join(data[num // 2 :]))
        expected[split] = rows
    check(opened(monkeypatch, "dmlab", tmp_path, expected), expected, ("validation", 0), ("test", 0))


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: b"\xff" * 40, lambda data: b""])
def test_a_damaged_tfrecord_is_named(tmp_path, damage):
    path = tmp_path / "dmlab-train.tfrecord"
    path.write_bytes(damage(record(b"x" * 50, "a", 1) * 2))
    with pytest.raises(BadInput, match=r"dmlab-train\.tfrecord: not a complete TFRecord file"):
        scan(path)


def caltech_original(root: Path) -> None:
    for label in range(102):
        name = "BACKGROUND_Google" if label == 0 else f"class{label:03d}"
        for i in range(31 + label % 3):
            put(root / f"caltech101/101_ObjectCategories/{name}/image_{i:04d}.jpg", PICTURES[label])


def test_caltech101_is_a_style_sample_and_says_so(tmp_path, monkeypatch):
    caltech_original(tmp_path)
    monkeypatch.setitem(
        ORIGINALS, "caltech101", dataclasses.replace(ORIGINALS["caltech101"], counts={"train": 3_060, "test": 204})
    )
    source = VtabOriginal(task="caltech101", originals=str(tmp_path)).open()
    assert source.membership == "vtab1k-style:seed0"
    assert source.test == "subset:204:seed0"
    assert any("recorded as vtab1k-style" in note for note in source.notes)
    assert source.class_names[0] == "background_google", "names are sorted in lower case, as in TFDS"
    assert [len(source.split(name)) for name in ("train800", "val200", "train800val200", "test")] == [
        800,
        200,
        1000,
        204,
    ]
    chosen = [set(source.split(name).paths) for name in ("train800", "val200", "test")]
    assert len(set.union(*chosen)) == 1_204
    again = VtabOriginal(task="caltech101", originals=str(tmp_path)).open()
    assert again.split("train800").paths == source.split("train800").paths


def test_other_file_names_give_no_official_sample(tmp_path, monkeypatch):
    names = ["airplane", *(f"class{i:02d}" for i in range(44))]
    class_folder_original(tmp_path / "NWPU-RESISC45", names, 32)
    counted = dataclasses.replace(ORIGINALS["resisc45"], counts={"train": 45 * 32})
    monkeypatch.setitem(ORIGINALS, "resisc45", counted)
    source = VtabOriginal(task="resisc45", originals=str(tmp_path)).open()
    assert source.membership == "vtab1k-style:tfds-order"
    assert source.test.startswith("subset:")
    assert "not the published ones" in source.notes[-1]


def test_the_published_keys_confirm_the_sample():
    """The reference's file names of CLEVR and EuroSAT, run through the slices, give the known digests."""
    sizes = {"AnnualCrop": 3000, "Forest": 3000, "HerbaceousVegetation": 3000, "Highway": 2500, "Industrial": 2500}
    sizes |= {"Pasture": 2000, "PermanentCrop": 2500, "Residential": 3000, "River": 2500, "SeaLake": 3000}
    keys = {
        "eurosat": {"train": [f"{name}_{name}_{i}.jpg" for name, num in sizes.items() for i in range(1, num + 1)]},
        "clevr_dist": {"train": [f"CLEVR_train_{i:06d}.png" for i in range(70_000)]},
    }
    for task, splits in keys.items():
        examples = {
            split: vtab_original.Examples(names, np.zeros(len(names), np.int64), lambda rows: None)
            for split, names in splits.items()
        }
        original = ORIGINALS[task]
        found = tuple(
            vtab_original.key_digest(*vtab_original._slice(examples, start, num))
            for start, num in ((("train", 0), 800), (original.val, 200))
        )
        assert found == original.probes


def test_an_incomplete_original_is_told_with_all_its_counts(tmp_path):
    class_folder_original(tmp_path / "eurosat/2750", ["Forest", "River"], 3)
    with pytest.raises(BadInput, match=r"6 images in train, expected 27,000; 2 classes, expected 10; unpack it again"):
        VtabOriginal(task="eurosat", originals=str(tmp_path)).open()


def test_a_missing_original_says_what_to_get_and_where_to_put_it(tmp_path):
    with pytest.raises(MissingInput) as caught:
        VtabOriginal(task="dtd", originals=str(tmp_path)).revision()
    message = str(caught.value)
    for part in ("dataset.originals", str(tmp_path), "data prepare vtab/dtd", "625 MB", "dtd-r1.0.1.tar.gz"):
        assert part in message
    with pytest.raises(MissingInput, match=r"dataset\.originals.*data prepare vtab/cifar100"):
        VtabOriginal(task="cifar100", originals=str(tmp_path)).open()


def test_a_download_without_a_connection_ends_in_one_line(tmp_path, monkeypatch):
    import urllib.error

    from torchvision import datasets

    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(datasets, "DTD", offline)
    spec = VtabOriginal(task="dtd", originals=str(tmp_path / "new"), download=True)
    spec.check()
    for ask in (spec.open, spec.revision):
        with pytest.raises(MissingInput, match=r"cannot be downloaded \(Name or service not known\).*dtd-r1") as caught:
            ask()
        assert "\n" not in str(caught.value)
    with pytest.raises(MissingInput, match=r"vtab/resisc45: no original .* get \(425 MB\) NWPU-RESISC45"):
        VtabOriginal(task="resisc45", originals=str(tmp_path), download=True).open()


def test_sources_are_tried_in_the_order_given(tmp_path, monkeypatch):
    originals, folder = tmp_path / "originals", tmp_path / "folder"
    caltech_original(originals)
    monkeypatch.setitem(
        ORIGINALS, "caltech101", dataclasses.replace(ORIGINALS["caltech101"], counts={"train": 3_060, "test": 204})
    )
    places = {"root": str(folder), "originals": str(originals)}
    assert Vtab(**places).identity() == {"kind": "vtab_original", "task": "caltech101"}
    with pytest.raises(MissingInput, match=r"^vtab/caltech101: no task folder"):
        Vtab(**places, sources=["folder"]).revision()
    for split, start, num in (("train800", 0, 800), ("val200", 800, 200), ("test", 1000, 5)):
        rows = [f"images/{i:04d}.jpg {i % 102}\n" for i in range(start, start + num)]
        put(folder / f"caltech101/{split}.txt", "".join(rows))
    for i in range(1_005):
        put(folder / f"caltech101/images/{i:04d}.jpg", PICTURES[i % 256])
    both = Vtab(**places)
    assert both.identity() == {"kind": "vtab_folder", "task": "caltech101"}
    assert both.open().pixels == "jpeg75-folder"
    other = Vtab(**places, sources=["original", "folder"])
    assert other.open().pixels == "original"
    seen = {other.revision(), both.revision()}
    swap_bytes(other.open().split("test").paths[0])
    seen.add(Vtab(**places, sources=["original", "folder"]).revision())
    swap_bytes(folder / "caltech101/images/1004.jpg")
    seen.add(Vtab(**places).revision())
    assert len(seen) == 4
    (folder / "caltech101/val200.txt").write_text("images/0000.jpg x\n")
    with pytest.raises(BadInput, match="integer"):
        Vtab(**places).revision()
    with pytest.raises(ConfigError, match=r"dataset\.sources cannot be 'folders'"):
        Vtab(sources=["folders"])
