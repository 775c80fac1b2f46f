"""The processed VTAB-1k archive from the hub, against a local stand-in for the hub, and safe unpacking."""

import hashlib
import io
import shutil
import tarfile
import types
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from peftbench.data.sources import archive as archives
from peftbench.data.sources.archive import unpack
from peftbench.data.vtab import hub as vtab_hub
from peftbench.data.vtab.dataset import Vtab
from peftbench.data.vtab.folder import VtabFolder
from peftbench.data.vtab.hub import HubFile, VtabHub, files_of_task
from peftbench.data.vtab.tasks import VTAB_TASKS
from peftbench.foundation.errors import BadInput, MissingInput, PeftbenchError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def kitti(tmp_path_factory) -> Path:
    """A task folder with official counts, all images the same file."""
    folder = tmp_path_factory.mktemp("processed") / "kitti"
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (9, 8, 7)).save(stream, "JPEG")
    for split, count in (("train800", 800), ("val200", 200), ("test", 711)):
        (folder / "images" / split).mkdir(parents=True)
        lines = []
        for index in range(count):
            (folder / "images" / split / f"{index:06d}.jpg").write_bytes(stream.getvalue())
            lines.append(f"images/{split}/{index:06d}.jpg {index % 4}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def packed(kitti, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "kitti.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(kitti.rglob("*")):
            if file.is_file():
                archive.write(file, f"vtab-1k/kitti/{file.relative_to(kitti)}")
    return path


class Hub:
    """Stands for the hub: serves the files of a folder, counts downloads, and can go away or cut files short."""

    def __init__(self, folder: Path, local: Path) -> None:
        self.folder, self.local = folder, local
        self.downloads: list[str] = []
        self.reason: str | None = None
        self.cut = 0
        self.breaks_off = False

    def dataset_info(self, repo: str, revision: str | None, files_metadata: bool):
        assert files_metadata
        siblings = []
        for file in sorted(self.folder.rglob("*")):
            if file.is_file():
                data = file.read_bytes()
                lfs = types.SimpleNamespace(sha256=hashlib.sha256(data).hexdigest())
                name = file.relative_to(self.folder).as_posix()
                siblings.append(types.SimpleNamespace(rfilename=name, size=len(data), lfs=lfs))
        return types.SimpleNamespace(sha=revision or COMMIT, siblings=siblings)

    def hf_hub_download(self, repo: str, name: str, repo_type: str, revision: str) -> str:
        assert (repo_type, revision) == ("dataset", COMMIT)
        if self.breaks_off:
            raise LocalEntryNotFoundError("connection lost")
        self.downloads.append(name)
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (self.folder / name).read_bytes()
        target.write_bytes(data[: len(data) - self.cut])
        return str(target)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    fake = Hub(tmp_path / "remote", tmp_path / "local")
    fake.folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(vtab_hub, "offline_reason", lambda: fake.reason)
    return fake


def spec(**options: object) -> VtabHub:
    return VtabHub(task="kitti", **options)


def test_an_archive_is_fetched_once_and_is_then_the_same_data_as_the_folder(hub, packed, kitti):
    shutil.copy(packed, hub.folder / "kitti.zip")
    (hub.folder / "svhn.zip").write_bytes(b"not wanted")
    source = spec(download=True).open()
    assert (source.membership, source.test) == ("vtab1k-official:folder", "official:711")
    hub.reason = "no connection"
    folder = VtabFolder(task="kitti", root=str(kitti.parent))
    assert spec().revision() == spec(download=True).revision() == folder.revision()
    assert spec().identity() == {"kind": "vtab_folder"} | folder.identity()
    assert {"train800.txt", "val200.txt", "test.txt"} <= {path.name for path in spec().inputs()}
    assert hub.downloads == ["kitti.zip"]
    [note] = spec().open().notes
    assert note.endswith(f"at {COMMIT[:12]}: kitti.zip SHA-256 {hashlib.sha256(packed.read_bytes()).hexdigest()}")


def test_plain_folders_of_the_hub_are_copied(hub, kitti):
    shutil.copytree(kitti, hub.folder / "data" / "kitti")
    (hub.folder / "README.md").write_text("x")
    assert spec(download=True).revision() == VtabFolder(task="kitti", root=str(kitti.parent)).revision()
    assert "README.md" not in hub.downloads


def test_without_leave_to_download_or_a_connection_the_message_says_what_to_do(hub, packed):
    shutil.copy(packed, hub.folder / "kitti.zip")
    with pytest.raises(MissingInput, match=r"has not been fetched\nSet dataset\.download=true .*dataset\.root"):
        spec().revision()
    hub.reason = "HF_HUB_OFFLINE is set"
    with pytest.raises(MissingInput, match=r"cannot be fetched \(HF_HUB_OFFLINE is set\)") as caught:
        spec(download=True).revision()
    assert len(str(caught.value).split("\n")) == 3
    assert hub.downloads == []


def test_a_broken_off_download_is_one_line_and_the_next_try_goes_on(hub, packed):
    shutil.copy(packed, hub.folder / "kitti.zip")
    hub.breaks_off = True
    with pytest.raises(MissingInput, match="the Hugging Face hub cannot be reached"):
        spec(download=True).open()
    with pytest.raises(MissingInput, match=r"has not been fetched in full \(lacks kitti\.zip\)"):
        spec().open()
    hub.breaks_off = False
    assert len(spec(download=True).open().split("test")) == 711


def test_what_to_take_instead_is_said_once_of_all_sources(hub, packed, tmp_path):
    shutil.copy(packed, hub.folder / "kitti.zip")
    hub.breaks_off = True
    wanted = Vtab(task="kitti", root=str(tmp_path / "nowhere"), download=True, sources=["folder", "hub"])
    with pytest.raises(MissingInput, match="cannot be reached") as caught:
        wanted.revision()
    assert str(caught.value).count("needs no files") == 1 and str(caught.value).endswith("digits needs no files.")
    assert "needs no files" not in str(caught.value.of_record())


def test_a_short_file_is_deleted_and_never_unpacked(hub, packed, tmp_path):
    shutil.copy(packed, hub.folder / "kitti.zip")
    hub.cut = 100
    with pytest.raises(BadInput, match=r"kitti\.zip .* arrived damaged .*run the same command again"):
        spec(download=True).open()
    assert not (hub.local / "kitti.zip").exists()
    hub.cut = 0
    assert len(spec(download=True).open().split("val200")) == 200


def test_a_file_with_other_bytes_is_refused(hub, packed, monkeypatch):
    shutil.copy(packed, hub.folder / "kitti.zip")
    download = hub.hf_hub_download

    def change(*arguments: str, **options: str) -> str:
        path = Path(download(*arguments, **options))
        data = bytearray(path.read_bytes())
        data[50] ^= 1
        path.write_bytes(data)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", change)
    with pytest.raises(BadInput, match=r"arrived damaged .*SHA-256 not [0-9a-f]{64}"):
        spec(download=True).open()


def test_a_repository_without_the_task_or_with_another_layout(hub, packed, tmp_path):
    (hub.folder / "README.md").write_text("x")
    with pytest.raises(BadInput, match=r"holds no archive or folder for this task, only README\.md"):
        spec(download=True).open()
    shutil.rmtree(tmp_path / "cache")
    with zipfile.ZipFile(hub.folder / "all.zip", "w") as archive:
        archive.writestr("something/else.txt", "x")
    with pytest.raises(BadInput, match=r"all\.zip of .* holds no folder kitti or kitti_dist"):
        spec(download=True).open()


def test_a_pinned_commit_is_asked_for(hub, packed):
    shutil.copy(packed, hub.folder / "kitti.zip")
    assert spec(download=True, commit=COMMIT).open().test == "official:711"
    with pytest.raises(MissingInput, match="has not been fetched"):
        spec(commit="f" * 40).open()


def test_only_what_a_task_needs_is_fetched():
    def names(*files: str) -> list[str]:
        return [file.name for file in files_of_task([HubFile(name, 1, None) for name in files], VTAB_TASKS["cifar100"])]

    assert names("svhn.zip", "x/cifar.tar.gz", "README.md") == ["x/cifar.tar.gz"]
    assert names("a/cifar100/test.txt", "a/svhn/test.txt") == ["a/cifar100/test.txt"]
    assert names("vtab-1k.zip", "README.md") == ["vtab-1k.zip"]


# unpacking


def zipped(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/hostname")
    return path


def tarred(path: Path, members: dict[str, bytes], link: str | None = None, kind: bytes = tarfile.SYMTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpacking_gives_the_files_and_is_done_once(tmp_path, pack):
    archive = pack(tmp_path / "a", {"x/größe 1.txt": b"one", "y.txt": b"two"})
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "left by a killed run").write_text("x")
    unpack(archive, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")
    }
    assert found == {"x/größe 1.txt": b"one", "y.txt": b"two"}
    archive.unlink()
    unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil"])
def test_members_that_would_land_outside_are_refused(tmp_path, pack, name):
    archive = pack(tmp_path / "a", {"fine.txt": b"x", name: b"x"})
    with pytest.raises(BadInput, match="would be unpacked outside its folder"):
        unpack(archive, tmp_path / "in" / "out")
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["out.lock"]
    assert not (tmp_path / "evil").exists()


def test_links_and_devices_are_refused(tmp_path):
    archives = [zipped(tmp_path / "a", {}, link="l"), tarred(tmp_path / "b", {}, link="l")]
    archives += [tarred(tmp_path / str(n), {}, "l", kind) for n, kind in enumerate((tarfile.LNKTYPE, tarfile.FIFOTYPE))]
    for number, archive in enumerate(archives):
        with pytest.raises(BadInput, match=r"'l' is a link|the archive is damaged"):
            unpack(archive, tmp_path / f"out{number}")
        assert not (tmp_path / f"out{number}").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_truncated_archive_leaves_nothing(tmp_path, pack):
    archive = pack(tmp_path / "a", {f"{n}.bin": bytes(range(256)) * 40 for n in range(30)})
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match="the archive is damaged"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "a", {"x.txt": b"x"})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(PeftbenchError, match=r"cannot unpack here \(No space left on device\).*PEFTBENCH_CACHE"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_larger_than_the_disk_is_refused_before_it_fills_it(tmp_path, pack, monkeypatch):
    archive = pack(tmp_path / "a", {"small": b"x", "bomb": bytes(10**6)})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**5))
    with pytest.raises(PeftbenchError, match=r"needed to unpack.*free some space or set PEFTBENCH_CACHE"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out.partial"))
