"""Claims: of many workers on one results folder, on one host or several, one at a time works on a cell.

A claim is a file `<fingerprint>.<generation>.json`, created exclusively (a hard link to a complete file, which NFS
also decides on the server). Its owner touches it every few seconds. A claim is dead when its process is gone from this
machine, or when it has not been touched for `stale_seconds`. Nobody removes a dead claim to take its place, since two
workers that do so could each remove the other's: whoever creates the next generation is the owner.

Ages compare two times that the file server gave (the claim's and that of a file touched just now), so the clocks of
hosts do not matter. Records are created exclusively as well: should a host that was cut off for longer than
`stale_seconds` come back, the cell may have run twice, but it is recorded once.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from peftbench.foundation.entries import matching
from peftbench.foundation.files import create_text
from peftbench.records.store import Store

# NFS clients may show a file's time up to a minute late (acregmax): a shorter limit would declare the living dead.
STALE_SECONDS = 150.0
BEAT_SECONDS = 15.0
_NAME = re.compile(r"([0-9a-f]{16})\.(\d+)\.json")


@dataclass(frozen=True)
class Owner:
    """Who holds a claim. `machine` also tells reboots and containers of one host name apart."""

    host: str
    machine: str
    pid: int
    process: str
    since: str
    token: str

    @classmethod
    def me(cls) -> Owner:
        since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _process(pid), since, uuid.uuid4().hex)

    @property
    def here(self) -> bool:
        """Whether this process could see the owner's, if it still ran."""
        return self.machine == _machine()

    @property
    def gone(self) -> bool:
        """Whether the owner's process has certainly ended; another process may have its number by now."""
        return self.here and _process(self.pid) != self.process

    def __str__(self) -> str:
        return f"{self.host}:{self.pid} since {self.since}"


@dataclass(frozen=True)
class Held:
    """A claim as seen by others. `owner` is None when the file cannot be read."""

    path: Path
    generation: int
    owner: Owner | None
    touched: float

    def dead(self, now: float, stale_seconds: float) -> bool:
        """Whether nobody works on it any more. No clock but the file server's has set the time, so one that lies far
        ahead was set by hand or before that clock was put back, and says nothing for a living owner."""
        return (self.owner is not None and self.owner.gone) or abs(now - self.touched) > stale_seconds

    def __str__(self) -> str:
        return f"{self.owner or 'somebody whose claim cannot be read'} (claim {self.path})"


class Claims:
    """The claims of one results folder."""

    def __init__(self, folder: Path, stale_seconds: float = STALE_SECONDS, beat_seconds: float = BEAT_SECONDS) -> None:
        self.folder = folder
        self.stale_seconds, self.beat_seconds = stale_seconds, beat_seconds

    def take(self, fingerprint: str) -> Claim | None:
        """The claim on a cell, or None while somebody else works on it. Use it as a context.

        Raises `RecordError` when the folder cannot be written, and what `foundation.system.unreadable` says when it
        cannot be read.
        """
        before = self.holder(fingerprint)
        if before is not None and not before.dead(self.now(), self.stale_seconds):
            return None
        owner, generation = Owner.me(), 1 if before is None else before.generation + 1
        path = self.path_of(fingerprint, generation)
        try:
            create_text(path, json.dumps(vars(owner)) + "\n")
        except FileExistsError:
            # a file server that lost its answer may report the link it has just made as already there
            if _owner_in(path) != owner:
                return None
        claim = Claim(self, fingerprint, generation, owner)
        if before is not None and _owner_in(before.path) != before.owner:
            # between the two looks it was released, and perhaps claimed anew in a generation below this one
            path.unlink(missing_ok=True)
            return None
        return claim

    def wait_for(self, fingerprint: str, poll_seconds: float = 1.0) -> Claim:
        """The claim on a cell as soon as nobody else works on it."""
        while (claim := self.take(fingerprint)) is None:
            time.sleep(poll_seconds)
        return claim

    def holder(self, fingerprint: str) -> Held | None:
        """Who holds the cell now, dead or alive."""
        return self._newest(matching(self.folder, f"{fingerprint}.*.json")).get(fingerprint)

    def running(self) -> dict[str, Held]:
        """Fingerprint -> holder of all cells that somebody alive works on."""
        newest = self._newest(matching(self.folder, "*.json"))
        if not newest:
            return {}
        now = self.now()
        return {name: held for name, held in newest.items() if not held.dead(now, self.stale_seconds)}

    def now(self) -> float:
        """The time of the machine that keeps the folder, in seconds: that of a file touched there just now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
            return os.fstat(probe.fileno()).st_mtime

    def _newest(self, paths: Iterable[Path]) -> dict[str, Held]:
        found: dict[str, tuple[int, Path]] = {}
        for path in paths:
            match = _NAME.fullmatch(path.name)
            if match and int(match[2]) > found.get(match[1], (0, path))[0]:
                found[match[1]] = (int(match[2]), path)
        held = {}
        for fingerprint, (generation, path) in found.items():
            try:
                touched = path.stat().st_mtime
            except FileNotFoundError:
                continue  # released since the folder was listed
            held[fingerprint] = Held(path, generation, _owner_in(path), touched)
        return held

    def path_of(self, fingerprint: str, generation: int) -> Path:
        return self.folder / f"{fingerprint}.{generation}.json"


class Claim:
    """A cell that is this worker's. As a context it keeps the claim fresh and gives it up at the end."""

    def __init__(self, claims: Claims, fingerprint: str, generation: int, owner: Owner) -> None:
        self.fingerprint, self.generation, self.owner = fingerprint, generation, owner
        self._claims = claims
        self._path = claims.path_of(fingerprint, generation)
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._keep_fresh, daemon=True, name=f"claim-{fingerprint}")

    @property
    def num_deaths(self) -> int:
        """How many workers in a row died while they held this cell."""
        return self.generation - 1

    def release(self) -> None:
        # own file last: as long as it is there nobody takes an older, dead generation for the current one
        for generation in range(1, self.generation + 1):
            self._claims.path_of(self.fingerprint, generation).unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        self._beat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beat.join()
        self.release()

    def _keep_fresh(self) -> None:
        while not self._ended.wait(self._claims.beat_seconds):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                return  # taken over and finished by another host while this one was cut off
            except OSError:
                continue  # a file server that does not answer now may do so at the next beat


def _owner_in(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _machine() -> str:
    """Host, boot and process namespace: where a process number means something."""
    parts = [socket.gethostname()]
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: str(Path("/proc/self/ns/pid").readlink()),
    ):
        try:
            parts.append(read())
        except OSError:
            continue
    return "/".join(parts)


def _process(pid: int) -> str:
    """A process's number and start time, which together are never used twice; empty when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else f"{pid}@{fields[19]}"
    except FileNotFoundError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return str(pid)


def claims_of(store: Store) -> Claims:
    """The claims on the cells of one results folder."""
    return Claims(store.work_folder / "claims")
