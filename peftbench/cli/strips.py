"""Pictures of the clips behind records, for the page of a leaderboard: data that is drawn and needs no files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import cast

from peftbench.foundation.errors import PeftbenchError
from peftbench.foundation.spec import build
from peftbench.records.record import RunRecord

# of data sets of clips
GROUP = "video"


def strips_of(records: Iterable[RunRecord]) -> dict[str, str]:
    """Data set -> a PNG as a data URL: a test clip of each class, its frames in order. One record of each is given.

    Clips from files are left out, since a record does not say where they are.
    """
    found: dict[str, str] = {}
    for record in records:
        if record.labels["group"] != GROUP:
            continue
        # only where there are clips: a table is made again without what draws them
        from peftbench.data.base import DATASETS, DatasetSpec
        from peftbench.data.contact_sheet import clip_sheet

        options = {
            name: value for name, value in record.identity["dataset"].items() if name not in ("kind", "revision")
        }
        try:
            spec = build(DATASETS.get(record.identity["dataset"]["kind"]), options)
            source = cast(DatasetSpec, spec).open()
            sheet = clip_sheet(source.split("test"), source.class_names, tile=48)
        except PeftbenchError:
            continue
        file = io.BytesIO()
        sheet.save(file, "PNG", optimize=True)
        found[record.labels["dataset"]] = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return found
