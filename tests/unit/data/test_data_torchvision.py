"""CIFAR from its archives: VTAB's sample of a made-up set in the real format, and what is said without a connection."""

import hashlib
import io
import pickle
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest

from peftbench.data.fewshot.draw import few_shot
from peftbench.data.sources import torchvision_sets
from peftbench.data.sources.torchvision_sets import TorchvisionSet
from peftbench.foundation.errors import MissingInput, PeftbenchError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


def offline(*arguments: object, **options: object) -> None:
    raise urllib.error.URLError("[Errno -2] Name or service not known")


@pytest.mark.parametrize(
    ("task", "archive", "size", "instead"),
    [
        ("cifar100", "cifar-100-python.tar.gz", "169 MB", "dataset=vtab/cifar100"),
        ("cifar10", "cifar-10-python.tar.gz", "170 MB", "dataset=cifar10_parquet dataset.path="),
    ],
)
def test_offline_is_one_message_with_everything_needed(tmp_path, monkeypatch, task, archive, size, instead):
    monkeypatch.setattr(torchvision_sets.urllib.request, "urlopen", offline)
    with pytest.raises(MissingInput) as caught:
        TorchvisionSet(task=task, root=str(tmp_path / "root")).open()
    message = str(caught.value)
    for part in (task, archive, size, "Name or service not known", "dataset.root=", instead, str(tmp_path / "root")):
        assert part in message
    assert len(set((message).splitlines())) == len((message).splitlines()), "each advice once"
    assert list((tmp_path / "root").iterdir()) == []


class Broken(io.BytesIO):
    """A connection that dies after its first block."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise ConnectionResetError("Connection reset by peer")
        return super().read(100)


@pytest.mark.parametrize(
    "sent", [Broken(b"x" * 1000), io.BytesIO(b"<html>proxy login</html>")], ids=["cut off", "wrong file"]
)
def test_a_bad_download_leaves_no_partial_file(tmp_path, monkeypatch, sent):
    monkeypatch.setattr(torchvision_sets.urllib.request, "urlopen", lambda *arguments, **options: sent)
    with pytest.raises(MissingInput, match=r"Connection reset by peer|wrong MD5"):
        TorchvisionSet(root=str(tmp_path / "root")).open()
    assert list((tmp_path / "root").iterdir()) == []


def test_no_download_when_told_so(tmp_path, monkeypatch):
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(torchvision_sets.urllib.request, "urlopen", forbidden)
    spec = TorchvisionSet(root=str(tmp_path), download=False)
    for ask in (spec.revision, spec.open):
        with pytest.raises(MissingInput, match=r"dataset\.download is false"):
            ask()


def test_a_root_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PeftbenchError, match=r"file cannot be used .*dataset\.root"):
        TorchvisionSet(root=str(tmp_path / "file")).open()


def test_where_it_lies_and_whether_to_download_are_no_part_of_identity(tmp_path):
    first, second = TorchvisionSet(root=str(tmp_path), download=True), TorchvisionSet(task="cifar10")
    assert first.identity() == second.identity() == {"task": "cifar10"}
    assert first.revision() == second.revision()


def pickled(entry: dict[str, object]) -> bytes:
    return pickle.dumps(entry)


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """A small set in CIFAR-100's own format, whose MD5s torchvision is told to expect."""
    from torchvision.datasets import CIFAR100

    pixels = np.zeros((3_000, 3, 32, 32), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.divmod(np.arange(3_000), 256)
    flat = pixels.reshape(3_000, -1)
    files = {
        "train": pickled({"data": flat, "fine_labels": [index % 100 for index in range(3_000)]}),
        "test": pickled({"data": flat[:500], "fine_labels": [index % 100 for index in range(500)]}),
        "meta": pickled({"fine_label_names": [f"class{index}" for index in range(100)]}),
    }
    root = tmp_path / "root"
    root.mkdir()
    path = root / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})
    facts = torchvision_sets._FACTS["cifar100"]
    known = type(facts)(hashlib.md5(path.read_bytes()).hexdigest(), facts.megabytes, facts.membership, facts.otherwise)
    monkeypatch.setitem(torchvision_sets._FACTS, "cifar100", known)
    return path


def row_of(image: np.ndarray) -> int:
    return int(image[0, 0, 0]) * 256 + int(image[0, 1, 0])


def test_the_sample_follows_the_hash_order_over_the_running_index(archive):
    source = TorchvisionSet(task="cifar100", root=str(archive.parent), download=False).open()
    order = sorted(range(3_000), key=lambda index: hashlib.md5(f"train{index}".encode()).digest())
    expected = {
        "train800": order[:800],
        "val200": order[2_700:2_900],
        "train800val200": order[:800] + order[2_700:2_900],
    }
    for name, rows in expected.items():
        split = source.split(name)
        assert [row_of(np.asarray(split.read(index))) for index in range(len(split))] == rows
        assert split.labels.tolist() == [row % 100 for row in rows]
    assert len(source.split("test")) == 500
    assert (source.membership, source.pixels, source.num_classes) == ("vtab1k-official:rebuilt", "original", 100)
    assert source.class_names[7] == "class7"


def test_all_images_are_served_too(archive):
    source = TorchvisionSet(task="cifar100", root=str(archive.parent), download=False).open()
    assert [len(source.split(name)) for name in ("train", "val", "trainval")] == [2_700, 300, 3_000]
    whole = source.split("trainval")
    assert [row_of(np.asarray(whole.read(index))) for index in (0, 2_999)] == [0, 2_999]
    assert len(few_shot(source, 16, 0, "m").split("fewshot")) == 1_600
    assert (source.membership_of("trainval"), source.membership_of("train800")) == ("full", "vtab1k-official:rebuilt")


def test_unpacked_files_are_enough_and_damaged_ones_are_unpacked_again(archive):
    spec = TorchvisionSet(task="cifar100", root=str(archive.parent), download=False)
    digest = spec.open().split("test").content_digest()
    test_file = archive.parent / "cifar-100-python" / "test"
    test_file.write_bytes(b"damaged")
    assert spec.open().split("test").content_digest() == digest
    archive.unlink()
    assert spec.open().split("test").content_digest() == digest
    test_file.write_bytes(b"damaged")
    with pytest.raises(MissingInput, match=r"neither .* is intact"):
        spec.open()
    assert sorted(path.name for path in archive.parent.iterdir()) == ["cifar-100-python"]
