"""Scores of finished cells on corrupted copies of their test images: one file for each record, beside the records.

`<results>/robustness/<fingerprint>.json`: `fingerprint`, `metric`, `clean` and `corrupted`:
corruption -> severity -> score.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.foundation.entries import matching
from peftbench.foundation.errors import RecordError, brief
from peftbench.foundation.files import replace_text

FOLDER = "robustness"
_LARGEST_BYTES = 1_000_000


@dataclass(frozen=True)
class Robustness:
    """`corrupted`: corruption -> severity -> score of the primary metric `metric`; `clean` as in the record."""

    fingerprint: str
    metric: str
    clean: float
    corrupted: Mapping[str, Mapping[str, float]]

    @property
    def mean(self) -> float:
        """Mean over corruptions of the mean over their severities."""
        return statistics.fmean(statistics.fmean(scores.values()) for scores in self.corrupted.values())


def put(results: Path, found: Robustness) -> Path:
    """Write or replace the file of one record; raises `RecordError` when it cannot be written."""
    path = results / FOLDER / f"{found.fingerprint}.json"
    replace_text(path, json.dumps(vars(found), indent=1, allow_nan=False) + "\n")
    return path


def read(path: Path) -> Robustness:
    """Raises `RecordError` for a file that holds something else."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise RecordError(f"{path}: too large for the robustness of one record")
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Robustness(**values)
        plain = isinstance(found.metric, str) and _is_score(found.clean) and path.stem == found.fingerprint
        scores = [score for by_severity in found.corrupted.values() for score in _values(by_severity)]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path}: not the robustness of a record ({brief(error)})") from None
    if not plain or not scores or not all(map(_is_score, scores)):
        raise RecordError(f"{path}: not the robustness of a record")
    return found


def mean_scores(results: Path) -> dict[str, float]:
    """Fingerprint -> mean score on corrupted images, of those in which all of the common corruptions were measured.

    Files that measured other corruptions than most do are left out, so that means compare. Raises `RecordError`.
    """
    found = [read(path) for path in matching(results / FOLDER, "*.json")]
    kinds = [_kind(one) for one in found]
    common = max(set(kinds), key=lambda kind: (kinds.count(kind), len(kind), kind), default=())
    return {one.fingerprint: one.mean for one, kind in zip(found, kinds, strict=True) if kind == common}


def _kind(one: Robustness) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, severity) for name, scores in one.corrupted.items() for severity in scores))


def _values(by_severity: Mapping[str, Any]) -> list[Any]:
    if not by_severity:
        raise ValueError("a corruption without scores")
    return list(by_severity.values())


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
