"""A planned grid: every cell with its resolved configuration, as one JSON file that any worker can read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.foundation.errors import BadInput
from peftbench.foundation.files import replace_text
from peftbench.foundation.location import user_path

VERSION = 2


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a grid. `record` and `failure` are the states of those files when the grid was planned.

    A worker compares them with the states it finds: whatever appeared since was made by this sweep or beside it.
    `inapplicable`: why it cannot apply, where its options tell that ahead of any attempt. `apart`: as in `Cell`.
    """

    fingerprint: str
    title: str
    labels: dict[str, str]
    seed: int
    words: list[str]
    config: dict[str, Any]
    record_path: str
    record: list[int] | None
    failure_path: str
    failure: list[int] | None
    inapplicable: str = ""
    apart: tuple[str, ...] | list[str] = ()

    @property
    def results(self) -> Path:
        return user_path(self.config["runtime"]["results"], "runtime.results")

    @property
    def reruns(self) -> bool:
        return bool(self.config["runtime"]["on_existing"] == "rerun")

    @property
    def retries(self) -> bool:
        return bool(self.config["runtime"]["on_failed"] == "retry")


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep without repetitions, in the order of its words.

    folder: where relative paths start. problems: (words, message) of cells that cannot be planned, for example since
    their data are not here. left_out: (method, message) of those of `method=all` that refuse the other words.
    """

    folder: str
    cells: list[PlannedCell]
    problems: list[tuple[str, str]]
    left_out: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write the plan under a name made of its content. Raises `RecordError` when it cannot be written."""
        text = json.dumps({"version": VERSION} | dataclasses.asdict(self))
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        replace_text(path, text)
        return path.resolve()

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises `BadInput` when the file is not a plan of this version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("version") != VERSION:
                raise ValueError("another version of peftbench wrote it")
            cells = [PlannedCell(**cell) for cell in values["cells"]]
            problems, left_out = ([(of, said) for of, said in values[name]] for name in ("problems", "left_out"))
            return cls(values["folder"], cells, problems, left_out)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path} is not the plan of a sweep ({error}); start the sweep again") from error


def file_state(path: Path | str) -> list[int] | None:
    """Size and time of a file, which differ once it is written anew; None when there is none."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
