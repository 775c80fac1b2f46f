"""The page of an advice in a real browser: a phone scrolls down only, a wide confusion keeps its classes in sight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from peftbench.advise.page import write_page
from peftbench.advise.race import Entry, Plan, Race, Trial
from peftbench.records.record import RunRecord
from tests.browsing import a_browser, needs_browser, watched
from tests.record_factory import record_values

pytestmark = [pytest.mark.slow, needs_browser]

NAMES = [f"a_rather_long_name_of_a_class_{number}" for number in range(12)]


class Images:
    """Two images of each class."""

    labels = np.repeat(np.arange(len(NAMES)), 2)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> Image.Image:
        return Image.new("RGB", (300, 200), (row, 0, 0))

    def describe(self, row: int) -> str:
        return f"folder/{'a_long_name_of_a_file' * 4}_{row}.jpg"


@pytest.fixture(scope="module")
def advice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = record_values(method="lora", options={"optim": {"lr": 0.005}})
    val = {"accuracy": 0.5, "mean_class_accuracy": 0.5, "loss": 1.0, "correct": 50, "n": 100}
    values["metrics"] |= {"val": val}
    values["data"]["splits"]["val"] = {"name": "val", "n": 100, "digest": "v"}
    race = Race(Plan((1,), (2,)), [Trial(Entry("lora", 1.0), 0, 2, RunRecord(**values))])
    # every image for the next class: mistakes only
    probabilities = np.eye(len(NAMES))[(Images.labels + 1) % len(NAMES)]
    path = tmp_path_factory.mktemp("advice") / "advice.html"
    words = ["Take lora."]
    use = 'import peftbench\nmodel = peftbench.predictor("a/rather/long/path/to/the/exported/model.safetensors")'
    return write_page(path, "Which?", words, ["x" * 80], words, race, NAMES, Images(), probabilities, use)


def test_a_phone_scrolls_down_only_and_keeps_the_classes_in_sight(advice: Path) -> None:
    with a_browser() as browser:
        context = browser.new_context(viewport={"width": 360, "height": 700}, is_mobile=True, offline=True)
        page = watched(context, lambda url: not url.startswith(("file:", "data:")))
        page.goto(advice.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        table = page.locator(".wide", has=page.locator(".confusion"))
        assert table.evaluate("node => node.scrollWidth > node.clientWidth")
        table.evaluate("node => node.scrollTo(10000, 0)")
        name = page.locator(".confusion tr:nth-child(2) th")
        assert name.evaluate("node => node.getBoundingClientRect().left >= 0")
        # wide enough to be read, not broken into single letters
        assert name.evaluate("node => node.getBoundingClientRect().width > 100")
        assert page.problems == []
