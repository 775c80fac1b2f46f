"""Scores of finished cells on corrupted copies of their test images: one file for each record, beside the records.

`<results>/robustness/<fingerprint>.json`: `fingerprint`, `metric`, `clean`, `corrupted`: corruption -> severity ->
score, and `strengths`: the size in pixels of the images that the strengths of the severities were published for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.foundation.entries import matching
from peftbench.foundation.errors import RecordError, brief
from peftbench.foundation.files import locked, replace_text
from peftbench.records.store import Store

FOLDER = "robustness"
_LARGEST_BYTES = 1_000_000
# which corruptions at which severities, and whether the file says their strengths
Kind = tuple[tuple[tuple[str, str], ...], bool]


@dataclass(frozen=True)
class Robustness:
    """`corrupted`: corruption -> severity -> score of the primary metric `metric`; `clean` as in the record.

    `strengths`: as in the file; None in files of before they said so.
    """

    fingerprint: str
    metric: str
    clean: float
    corrupted: Mapping[str, Mapping[str, float]]
    strengths: int | None = None

    @property
    def mean(self) -> float:
        """Mean over corruptions of the mean over their severities."""
        return statistics.fmean(statistics.fmean(scores.values()) for scores in self.corrupted.values())


@dataclass(frozen=True)
class Added:
    """What a record's file holds now. `replaced`: why older scores could not stay beside new ones, "" if they do."""

    path: Path
    held: Robustness
    replaced: str


def path_of(results: Path, fingerprint: str) -> Path:
    """Where the scores of one record are kept."""
    return results / FOLDER / f"{fingerprint}.json"


def put(results: Path, found: Robustness) -> Path:
    """Write or replace the file of one record; raises `RecordError` when it cannot be written."""
    path = path_of(results, found.fingerprint)
    values = {name: value for name, value in vars(found).items() if value is not None}
    replace_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
    return path


def add(store: Store, found: Robustness, unsaid: int) -> Added:
    """Write new scores beside those that the record's file holds; of one corruption and severity the new one stays.

    Where the older ones cannot stand beside them, the older file goes to `work/replaced/`. `unsaid`: the strengths of a
    file that does not say them. Raises `RecordError` for a file that holds something else, and when the disk refuses.
    """
    path, reason = path_of(store.root, found.fingerprint), ""
    with writing(store):
        if path.exists():
            older = read(path)
            if reason := _apart(older, found, unsaid):
                kept = store.keep_replaced(path, f"{FOLDER}-{found.fingerprint}")
                reason = f"{reason}; the older scores were put aside as {kept}"
            else:
                found = dataclasses.replace(found, corrupted=_together(older.corrupted, found.corrupted))
        return Added(put(store.root, found), found, reason)


def writing(store: Store) -> AbstractContextManager[None]:
    """One at a time: of two that read a file before either writes it, one would lose the other's scores.

    Raises `RecordError` where there is no place for the lock.
    """
    return locked(store.work_folder / "robustness.lock")


def _apart(older: Robustness, found: Robustness, unsaid: int) -> str:
    """Why two measurements of a record cannot stand in one file; "" where they can."""
    if older.metric != found.metric:
        return f"measured before was {older.metric}, now {found.metric}"
    if older.clean != found.clean:
        return f"the clean score was {older.clean!r} before and is {found.clean!r}"
    strengths = older.strengths or unsaid
    if strengths != found.strengths:
        return f"strengths were those for {strengths} px before and are those for {found.strengths} px"
    return ""


def _together(
    older: Mapping[str, Mapping[str, float]], newer: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    both = {name: {**older.get(name, {}), **newer.get(name, {})} for name in {**older, **newer}}
    return {name: dict(sorted(scores.items())) for name, scores in both.items()}


def read(path: Path) -> Robustness:
    """Raises `RecordError` for a file that holds something else."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise RecordError(f"{path}: too large for the robustness of one record; move it away")
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Robustness(**values)
        plain = isinstance(found.metric, str) and _is_score(found.clean) and path.stem == found.fingerprint
        plain = plain and (found.strengths is None or (type(found.strengths) is int and found.strengths > 0))
        scores = [score for by_severity in found.corrupted.values() for score in _values(by_severity)]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path}: not the robustness of a record ({brief(error)}); move it away") from None
    if not plain or not scores or not all(map(_is_score, scores)):
        raise RecordError(f"{path}: not the robustness of a record; move it away")
    return found


def mean_scores(results: Path) -> dict[str, float]:
    """Fingerprint -> mean score on corrupted images, of those in which all of the common corruptions were measured.

    Files that measured other corruptions than most do are left out, so that means compare; files of before they said
    their strengths count as others. Raises `RecordError`.
    """
    found = _all(results)
    common = _common(found)
    return {one.fingerprint: one.mean for one in found if _kind(one) == common}


def left_out(results: Path, fingerprint: str) -> str:
    """Why `mean_scores` leaves out a record that has a file; "" where it does not. Raises `RecordError`."""
    found = _all(results)
    own, common = next(_kind(one) for one in found if one.fingerprint == fingerprint), _common(found)
    if own == common:
        return ""
    lacking, more = (_names(set(a[0]) - set(b[0])) for a, b in ((common, own), (own, common)))
    if not (lacking or more):
        say, which = ("say", "it") if common[1] else ("do not say", "those records")
        return f"most files there {say} their strengths; measure {which} again"
    differs = [f"{verb} {brief(names, 200)}" for verb, names in (("lacks", lacking), ("has besides", more)) if names]
    return f"most files there hold other corruptions; this one {' and '.join(differs)}"


def _names(scores: set[tuple[str, str]]) -> str:
    """`fog 1 2, snow 5`."""
    severities = {name: " ".join(sorted(s for other, s in scores if other == name)) for name, _ in sorted(scores)}
    return ", ".join(f"{name} {which}" for name, which in severities.items())


def _all(results: Path) -> list[Robustness]:
    return [read(path) for path in matching(results / FOLDER, "*.json")]


def _common(found: list[Robustness]) -> Kind:
    """What most files measured; of kinds that as many did, the one with most scores."""
    kinds = [_kind(one) for one in found]
    return max(set(kinds), key=lambda kind: (kinds.count(kind), len(kind[0]), kind), default=((), False))


def _kind(one: Robustness) -> Kind:
    scores = ((name, severity) for name, scores in one.corrupted.items() for severity in scores)
    return tuple(sorted(scores)), one.strengths is not None


def _values(by_severity: Mapping[str, Any]) -> list[Any]:
    if not by_severity:
        raise ValueError("a corruption without scores")
    return list(by_severity.values())


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
