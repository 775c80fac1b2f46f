"""CIFAR-10 and CIFAR-100 from their original archives, read by torchvision, sampled by VTAB's rule."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftbench.data.base import DATASETS, FULL_SPLITS, SPLITS, DatasetSpec, Source
from peftbench.data.parts import full_split
from peftbench.data.raw import RawSplit
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.splits import ArraySplit
from peftbench.data.tfds_order import train_and_val
from peftbench.foundation.errors import MissingInput, PeftbenchError
from peftbench.foundation.location import default_cache_dir, user_path
from peftbench.foundation.spec import option

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

_URL = "https://www.cs.toronto.edu/~kriz/"
_TIMEOUT_SECONDS = 20
_CONNECTION_ERRORS = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class _Facts:
    """`md5`: of the published archive. `membership`: what VTAB's rule yields on this set."""

    md5: str
    megabytes: int
    membership: str
    otherwise: str


# CIFAR-100 is a VTAB task and the rule gives its official sample; CIFAR-10 is not, so its sample is VTAB-style.
_FACTS = {
    "cifar10": _Facts(
        "c58f30108f718f92721af3b95e74349a",
        170,
        "vtab1k-style:tfds-order",
        "or use a parquet copy: dataset=cifar10_parquet dataset.path=<folder with train.parquet and test.parquet>",
    ),
    "cifar100": _Facts(
        "eb9058c3a382ffc7106e4002c42a8d85",
        169,
        "vtab1k-official:rebuilt",
        "or use the processed VTAB-1k folder: dataset=vtab/cifar100 dataset.root=<folder of task folders>",
    ),
}


@DATASETS.add("torchvision")
@dataclass(frozen=True)
class TorchvisionSet(DatasetSpec):
    """800 / 200 of CIFAR's 50,000 training images in TFDS's hash order, and the whole test set of 10,000.

    `root`: folder of the archive or of its unpacked files, by default `torchvision` in the cache folder.
    `download`: fetch the archive when it is not there.
    """

    task: str = option("cifar10", choices=tuple(_FACTS))
    root: str | None = option(None, location=True)
    download: bool = option(True, location=True)

    @property
    def label(self) -> str:
        return self.task

    @property
    def group(self) -> str:
        return "natural"

    def revision(self) -> str:
        facts, root = _FACTS[self.task], self._root()
        if not self.download and not any((root / name).exists() for name in _names(self.task)):
            raise self._missing("and dataset.download is false")
        return f"md5:{facts.md5}"

    def places(self) -> list[Path]:
        return [path for name in _names(self.task) if (path := self._root() / name).exists()]

    @property
    def download_megabytes(self) -> int | None:
        return _FACTS[self.task].megabytes

    def open(self) -> Source:
        train, test = self._read()
        train800, val200 = train_and_val(len(train.data))
        chosen = np.concatenate([train800, val200])
        return CifarSource(
            class_names=tuple(train.classes),
            membership=_FACTS[self.task].membership,
            pixels="original",
            test=f"official:{len(test.data)}",
            notes=(),
            train=ArraySplit(train.data[chosen], np.array(train.targets)[chosen]),
            whole_train=ArraySplit(train.data, np.array(train.targets)),
            whole_test=ArraySplit(test.data, np.array(test.targets)),
        )

    def _root(self) -> Path:
        return user_path(self.root, "dataset.root") if self.root else default_cache_dir() / "torchvision"

    def _read(self) -> tuple[CIFAR10, CIFAR10]:
        """The train and test sets, fetched and unpacked first when need be; torchvision checks every file's MD5."""
        root = self._root()
        try:
            if not (root / _names(self.task)[1]).is_dir():
                self._archive(root)  # before torchvision's import, so that a missing connection is told at once
            from torchvision import datasets

            kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[self.task]
            if not _unpacked(kind, root):
                _unpack(self._archive(root), root, kind.base_folder)
            return kind(str(root), train=True), kind(str(root), train=False)
        except OSError as error:
            raise PeftbenchError(
                f"{self.label}: {root} cannot be used ({error.strerror or error}); "
                "point dataset.root to a folder that can be written and has room for 400 MB"
            ) from error

    def _archive(self, root: Path) -> Path:
        """The intact archive, downloaded when it is not there."""
        path = root / _names(self.task)[0]
        if path.exists():
            if _md5(path) == _FACTS[self.task].md5:
                return path
            if not self.download:
                raise self._missing("the archive there is damaged (wrong MD5) and dataset.download is false")
        if not self.download:
            raise self._missing("and dataset.download is false")
        root.mkdir(parents=True, exist_ok=True)
        self._fetch(_URL + path.name, path)
        return path

    def _fetch(self, url: str, path: Path) -> None:
        """Download to a temporary name beside `path`; nothing partial is left, whatever happens."""
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as partial:
            try:
                try:
                    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
                        while block := response.read(1 << 20):
                            partial.write(block)
                except _CONNECTION_ERRORS as error:
                    reason = getattr(error, "reason", None) or error
                    raise self._missing(f"and {url} cannot be downloaded ({reason})") from error
                partial.flush()
                if _md5(Path(partial.name)) != _FACTS[self.task].md5:
                    raise self._missing(f"and what {url} sent is not the published archive (wrong MD5)")
                Path(partial.name).replace(path)
            finally:
                Path(partial.name).unlink(missing_ok=True)

    def _missing(self, reason: str) -> MissingInput:
        facts, (archive, folder) = _FACTS[self.task], _names(self.task)
        return MissingInput(
            f"{self.label}: neither {archive} ({facts.megabytes} MB) nor {folder}/ is intact in {self._root()}, "
            f"{reason}. Put {_URL}{archive} there (curl -O on a machine with a connection), "
            f"or set dataset.root=<folder that holds it>, {facts.otherwise}.",
            instead=NO_FILES_NEEDED,
        )


@dataclass(frozen=True)
class CifarSource(Source):
    """`train`: train800 followed by val200."""

    train: ArraySplit
    whole_train: ArraySplit
    whole_test: ArraySplit

    @property
    def splits(self) -> tuple[str, ...]:
        return (*FULL_SPLITS, *SPLITS)

    def split(self, name: str) -> RawSplit:
        if name == "test":
            return self.whole_test
        if name in FULL_SPLITS:
            return full_split(self.whole_train, name)
        start, stop = {"train800": (0, 800), "val200": (800, 1000), "train800val200": (0, 1000)}[name]
        return ArraySplit(self.train.images[start:stop], self.train.labels[start:stop])

    def membership_of(self, name: str) -> str:
        return "full" if name in FULL_SPLITS else self.membership

    def pool(self) -> ArraySplit:
        return self.whole_train


def _names(task: str) -> tuple[str, str]:
    """Archive and folder names, known without importing torchvision."""
    return {
        "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
        "cifar100": ("cifar-100-python.tar.gz", "cifar-100-python"),
    }[task]


def _unpacked(kind: type[CIFAR10], root: Path) -> bool:
    files = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    paths = [(root / kind.base_folder / name, md5) for name, md5 in files]
    return all(path.is_file() and _md5(path) == md5 for path, md5 in paths)


def _unpack(archive: Path, root: Path, folder: str) -> None:
    """Unpack aside and move file by file, so that a second process never reads half a file."""
    from torchvision.datasets.utils import extract_archive

    (root / folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as aside:
        extract_archive(str(archive), aside)
        for file in (Path(aside) / folder).iterdir():
            file.replace(root / folder / file.name)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
