"""Whether a dataset is here, from what can be seen without reading images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftbench.data.base import DatasetSpec
from peftbench.foundation.entries import all_below
from peftbench.foundation.errors import MissingInput, PeftbenchError

READY, DOWNLOAD, MISSING, DAMAGED = "ready", "download", "missing", "damaged"


@dataclass(frozen=True)
class Standing:
    """`state`: ready, download (fetched at first use), missing or damaged. `places` the images are read from.

    `num_bytes` on disk, where it was asked for and the dataset is here. `problem`: what is missing or damaged.
    """

    state: str
    places: tuple[Path, ...] = ()
    num_bytes: int | None = None
    problem: PeftbenchError | None = None


def standing(spec: DatasetSpec, sized: bool = False) -> Standing:
    """The state of a dataset by `DatasetSpec.check`, which hashes nothing that is only to be found; `sized` counts the
    bytes of its places.
    """
    try:
        spec.check()
        places = tuple(spec.places())
        num_bytes = sum(map(_bytes_under, places)) if sized and places else None
    except MissingInput as error:
        return Standing(MISSING, problem=error)
    except PeftbenchError as error:
        return Standing(DAMAGED, problem=error)
    return Standing(DOWNLOAD if spec.download_megabytes and not places else READY, places, num_bytes)


def _bytes_under(place: Path) -> int:
    if place.is_file():
        return place.stat().st_size
    return sum(path.stat().st_size for path in all_below(place) if path.is_file())
