"""The HTML report in a real browser, from disk and without a network: sort, filter, open a record, dark and light."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftbench.cli.commands.leaderboard import main
from peftbench.records.store import Store
from tests.record_factory import make_record

pytest.importorskip("plotly")
pytest.importorskip("itables")
playwright = pytest.importorskip("playwright.sync_api")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no browser on this machine")]

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
# a busy machine may take long to start a browser; nothing here is judged by time
PATIENCE = 90_000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("results")
    store = Store(root)
    for method, accuracy in (("lora", 0.9), ("vpt", 0.8), ("bitfit", 0.7), ("ssf", 0.6)):
        for index, dataset in enumerate(("dtd", "cifar100", "eurosat")):
            for seed in range(2):
                if (method, dataset) != ("ssf", "eurosat"):
                    score = accuracy - index / 20 + seed / 200
                    store.put(make_record(method=method, dataset=dataset, seed=seed, accuracy=score))
    store.put(make_record(method="lora", backbone="swin_b"))
    assert main(["--results", str(root)]) == 0
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=BROWSER, args=QUIET, timeout=PATIENCE)
        context = browser.new_context(offline=True, color_scheme="light")
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: page.problems.append(request.url) if _outside(request.url) else None)
        page.goto((root / "leaderboard" / "leaderboard.html").as_uri(), wait_until="commit")
        page.wait_for_selector("body[data-ready]")
        page.select_option("#choose-table", label="vit_b16, vtab1k, paper defaults")
        yield page
        browser.close()


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


def methods(page: Any) -> list[str]:
    return page.locator("section.board:visible .dt-scroll-body tbody tr td:first-child").all_inner_texts()


def test_each_table_can_be_chosen(page: Any) -> None:
    assert page.locator("#choose-table option").count() == 2
    assert methods(page) == ["lora", "vpt", "bitfit", "ssf"]


def test_a_header_sorts(page: Any) -> None:
    header = page.locator("section.board:visible .dt-scroll-head th", has_text="flat mean").first
    shown = page.locator("section.board:visible .dt-scroll-body tbody tr td:first-child")
    header.click()
    # an incomplete row has no mean and sorts lowest; the table is drawn anew some time after the click
    playwright.expect(shown).to_have_text(["ssf", "bitfit", "vpt", "lora"], timeout=PATIENCE)
    header.click()
    playwright.expect(shown).to_have_text(["lora", "vpt", "bitfit", "ssf"], timeout=PATIENCE)


def test_rows_are_filtered(page: Any) -> None:
    board = page.locator("section.board:visible")
    board.locator("input[type=search]").fill("bit")
    assert methods(page) == ["bitfit"]
    board.locator("input[type=search]").fill("")
    board.locator(".only-complete").check()
    assert methods(page) == ["lora", "vpt", "bitfit"]
    board.locator(".only-complete").uncheck()
    board.locator(".by-verdict").select_option("best")
    assert methods(page) == ["lora"]
    board.locator(".by-verdict").select_option("")
    assert len(methods(page)) == 4


def test_a_number_shows_its_records(page: Any) -> None:
    row = page.locator("section.board:visible .dt-scroll-body tbody tr", has_text="vpt")
    row.locator("a[data-records]").last.click()
    assert page.locator("#records-dialog").is_visible()
    assert page.locator("#dialog-list button").all_inner_texts() == [
        "eurosat, seed 0: 70.00 %",
        "eurosat, seed 1: 70.50 %",
    ]
    page.locator("#dialog-list button").nth(1).click()
    assert '"accuracy": 0.705' in page.locator("#dialog-json").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("#records-dialog").is_visible()


def test_all_plots_are_drawn(page: Any) -> None:
    board = page.locator("section.board:visible")
    for name in ("trainable", "memory", "flops", "ranks", "curves"):
        assert board.locator(f'[data-plot="{name}"] .scatterlayer .trace').count() > 0, name
    assert board.locator('[data-plot="heatmap"] .heatmaplayer .hm').count() == 1
    board.locator(".curve-value").select_option("lr")
    assert "learning rate" in board.locator('[data-plot="curves"]').inner_text()


def test_light_and_dark(page: Any, tmp_path: Path) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    first = page.screenshot(path=tmp_path / "light.png", timeout=PATIENCE)
    page.click("#theme")
    assert ground() != light
    assert page.screenshot(path=tmp_path / "dark.png", timeout=PATIENCE) != first
    page.click("#theme")
    assert ground() == light


def test_nothing_is_fetched_and_nothing_fails(page: Any) -> None:
    assert page.problems == []
