"""The processed VTAB-1k folder from the Hugging Face hub: fetched once, checked, unpacked, and then a plain folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from peftbench.data.base import DATASETS, Source
from peftbench.data.shipped import NO_FILES_NEEDED
from peftbench.data.sources.archive import building, is_archive, unpack
from peftbench.data.sources.hub import unreachable
from peftbench.data.vtab.folder import VtabFolder
from peftbench.data.vtab.spec import VtabSpec
from peftbench.data.vtab.tasks import VtabTask
from peftbench.foundation.connection import offline_reason
from peftbench.foundation.digests import hash_file
from peftbench.foundation.entries import matching
from peftbench.foundation.errors import BadInput, MissingInput
from peftbench.foundation.location import default_cache_dir
from peftbench.foundation.spec import option

# V-PETL Bench's copy (Xin et al., NeurIPS 2024)
REPOSITORY = "XiN0919/VTAB-1k"
_MAX_DEPTH = 3


@dataclass(frozen=True)
class HubFile:
    """One file of the repository. `sha256` is known to the hub for large files only."""

    name: str
    size: int | None
    sha256: str | None


@DATASETS.add("vtab_hub")
@dataclass(frozen=True)
class VtabHub(VtabSpec):
    """One VTAB-1k task of the processed folder at `repo`, kept below `vtab-1k-hub` in the cache folder.

    Without `download` only what was fetched before is used. `commit` pins the revision; by default the one fetched
    first, so that a change on the hub changes nothing here. Identity and revision are those of the same folder on disk.
    """

    repo: str = option(REPOSITORY, location=True)
    commit: str | None = option(None, location=True)
    download: bool = option(False, location=True)

    def identity(self) -> dict[str, Any]:
        return {"kind": VtabFolder.name, "task": self.task}

    def revision(self) -> str:
        return self.folder().revision()

    def check(self) -> None:
        self.folder().check()

    def inputs(self) -> list[Path]:
        return self.folder().inputs()

    def places(self) -> list[Path]:
        return self.folder().places()

    def open(self) -> Source:
        source = self.folder().open()
        commit, files = self._listing()
        made_from = [file for file in files_of_task(files, self.facts) if is_archive(file.name)]
        shown = [f"{file.name} SHA-256 {file.sha256 or 'not stated'}" for file in made_from]
        note = f"{self.label}: from {self.repo} at {commit[:12]}{': ' if shown else ''}{', '.join(shown)}"
        return dataclasses.replace(source, notes=(*source.notes, note))

    def folder(self) -> VtabFolder:
        """The unpacked folder, fetched first when it is not here and `download` allows it.

        Raises `MissingInput` when it cannot be had, `BadInput` when what arrived is not what the hub promised.
        """
        commit, files = self._listing()
        wanted = files_of_task(files, self.facts)
        if not wanted:
            raise BadInput(
                f"{self.label}: {self.repo} holds no archive or folder for this task, only "
                f"{', '.join(file.name for file in files[:10])}; use another source (dataset.root=<folder>)"
            )
        archives = [file for file in wanted if is_archive(file.name)]
        folders = [self._unpacked(commit, file) for file in archives]
        if len(archives) < len(wanted):
            folders.append(self._copied(commit, [file for file in wanted if not is_archive(file.name)]))
        for folder in folders:
            found = _task_folder(folder, self.facts)
            if found is not None:
                return VtabFolder(task=self.task, root=str(found.parent))
        raise BadInput(
            f"{self.label}: {', '.join(file.name for file in archives or wanted[:3])} of {self.repo} holds no folder "
            f"{' or '.join(self.facts.folders)} with train800.txt; use another source (dataset.root=<folder>)"
        )

    @property
    def _store(self) -> Path:
        return default_cache_dir() / "vtab-1k-hub" / self.repo.replace("/", "+")

    def _listing(self) -> tuple[str, list[HubFile]]:
        """The commit and its files: as noted when something was first fetched, else asked of the hub and noted."""
        noted = (
            [self._store / f"{self.commit}.json"] if self.commit else sorted(matching(self._store, "*.json"), key=_age)
        )
        for note in noted:
            try:
                rows = json.loads(note.read_text(encoding="utf-8"))
                return note.stem, [HubFile(**row) for row in rows]
            except (OSError, ValueError, TypeError):
                continue  # absent or half-written: asking again is all it takes
        if not self.download:
            raise self._missing("has not been fetched")
        commit, files = self._ask_hub()
        self._store.mkdir(parents=True, exist_ok=True)
        partial = self._store / f"{commit}.json.partial"
        partial.write_text(json.dumps([vars(file) for file in files], indent=1), encoding="utf-8")
        partial.replace(self._store / f"{commit}.json")
        return commit, files

    def _ask_hub(self) -> tuple[str, list[HubFile]]:
        with self._hub_errors():
            from huggingface_hub import HfApi

            info = HfApi().dataset_info(self.repo, revision=self.commit, files_metadata=True)
        files = [
            HubFile(found.rfilename, found.size, found.lfs.sha256 if found.lfs else None)
            for found in info.siblings or []
        ]
        return str(info.sha), files

    def _unpacked(self, commit: str, file: HubFile) -> Path:
        into = self._store / commit / file.name.replace("/", "+")
        if not into.is_dir():
            unpack(self._fetched(commit, file), into)
        return into

    def _copied(self, commit: str, files: list[HubFile]) -> Path:
        """Files that are no archives, in their folders: the hub's own cache holds links, which are refused as data."""
        into = self._store / commit / f"{self.task}-files"
        if into.is_dir():
            return into
        arrived = [(file, self._fetched(commit, file)) for file in files]
        with building(into) as folder:
            for file, path in arrived if folder else []:
                assert folder is not None
                target = folder.joinpath(*PurePosixPath(file.name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        return into

    def _fetched(self, commit: str, file: HubFile) -> Path:
        """The file as the hub has it. The hub's client resumes what was broken off."""
        if not self.download:
            raise self._missing(f"has not been fetched in full (lacks {file.name})")
        if PurePosixPath(file.name).is_absolute() or ".." in PurePosixPath(file.name).parts:
            raise BadInput(f"{self.repo}: '{file.name}' would be stored outside its folder; refused")
        with self._hub_errors():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(self.repo, file.name, repo_type="dataset", revision=commit))
        size = path.stat().st_size
        whole = file.size is None or size == file.size
        if whole and (file.sha256 is None or hash_file(path).hex() == file.sha256):
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise BadInput(
            f"{self.label}: {file.name} from {self.repo} arrived damaged ({size:,} of {file.size or size:,} bytes, "
            f"SHA-256 {'not ' + file.sha256 if whole and file.sha256 else 'not checked'}) and was deleted; "
            "run the same command again"
        )

    @contextmanager
    def _hub_errors(self) -> Iterator[None]:
        from huggingface_hub.errors import (
            HFValidationError,
            HTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        reason = offline_reason()
        if reason is not None:
            raise self._missing(f"cannot be fetched ({reason})")
        try:
            yield
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise MissingInput(
                f"{self.label}: the hub has no dataset {self.repo}, or it is private or gated (then: hf auth login)"
            ) from error
        except RevisionNotFoundError as error:
            raise MissingInput(f"{self.label}: the hub knows no revision {self.commit} of {self.repo}") from error
        except (HTTPError, LocalEntryNotFoundError, OSError) as error:
            raise unreachable(self.repo) from error

    def _missing(self, why: str) -> MissingInput:
        return MissingInput(
            f"{self.label}: {self.repo} {why}",
            "Set dataset.download=true with a connection (what is broken off resumes; sizes: "
            f"`hf download {self.repo} --repo-type dataset --dry-run`), or set dataset.root=<folder of task folders>.",
            instead=NO_FILES_NEEDED,
        )


def files_of_task(files: list[HubFile], facts: VtabTask) -> list[HubFile]:
    """What must be fetched for one task: its own archive, else its folder, else every archive there is."""
    archives = [file for file in files if is_archive(file.name)]
    own = [file for file in archives if PurePosixPath(file.name).name.split(".")[0] in facts.folders]
    loose = [file for file in files if set(PurePosixPath(file.name).parts[:-1]) & set(facts.folders)]
    return own or [file for file in loose if not is_archive(file.name)] or archives


def _task_folder(folder: Path, facts: VtabTask) -> Path | None:
    """The first folder of the task with its lists, at most three levels down."""
    for depth in range(_MAX_DEPTH + 1):
        for name in facts.folders:
            for found in matching(folder, "*/" * depth + name):
                if (found / "train800.txt").is_file():
                    return found
    return None


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns
