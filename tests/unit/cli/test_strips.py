"""Pictures of clips: strips of a data set for the page of a leaderboard; nothing for images and files."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from peftbench.boards.leaderboard import leaderboard
from peftbench.boards.report import write_report
from peftbench.cli.strips import strips_of
from peftbench.data.contact_sheet import clip_sheet
from peftbench.data.sources.moving_shapes import MovingShapes
from peftbench.foundation.identity import fingerprint
from peftbench.records.collect import collect
from peftbench.records.record import RunRecord
from tests.record_factory import make_record


def of_clips(kind: str, label: str, **options: object) -> RunRecord:
    record = make_record(method="aim", dataset=label)
    identity = {**record.identity, "dataset": {"kind": kind, "revision": "any", **options}}
    labels = {**record.labels, "group": "video"}
    return replace(record, identity=identity, fingerprint=fingerprint(identity), labels=labels)


def test_a_sheet_holds_the_frames_of_a_clip_of_each_class_in_their_order() -> None:
    source = MovingShapes(frames=5, size=16).open()
    split = source.split("test")
    sheet = np.asarray(clip_sheet(split, source.class_names, tile=32))
    for row in range(8):
        index = int(np.flatnonzero(split.labels == row)[0])
        for place, frame in enumerate(split.read_clip(index)):
            top, left = row * (32 + 16 + 8) + 4 + 16, 8 + place * 34
            shown = sheet[top : top + 32 : 2, left : left + 32 : 2]
            assert (shown == np.asarray(frame)).all()


def test_drawn_clips_are_shown_beside_their_records_and_files_are_not(tmp_path: Path) -> None:
    drawn = of_clips("moving_shapes", "moving_shapes_t5", frames=5)
    files = of_clips("clips", "ssv2", form="ssv2")
    found = strips_of([drawn, files, make_record(dataset="dtd")])
    assert list(found) == ["moving_shapes_t5"]
    head, content = found["moving_shapes_t5"].split(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size[0] == 2 * 8 + 5 * 50
    page = write_report(tmp_path / "x.html", leaderboard(collect([drawn])), [drawn], {}, strips=found).read_text()
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["strips"] == found
