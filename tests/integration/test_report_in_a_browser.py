"""The page of a leaderboard in a real browser, from disk and without a network, and as a site from a local server."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from peftbench.cli.commands.leaderboard import main
from peftbench.foundation.identity import fingerprint
from peftbench.records.record import RunRecord
from peftbench.records.store import Store
from tests.browsing import a_browser, needs_browser, served, watched
from tests.record_factory import make_record, record_values

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [pytest.mark.slow, needs_browser]

COSTS = {"lora": (300_000, 50.0), "vpt": (100_000, 200.0), "bitfit": (200_000, 100.0), "ssf": (50_000, 400.0)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    store = Store(root)
    for method, accuracy in (("lora", 0.9), ("vpt", 0.8), ("bitfit", 0.7), ("ssf", 0.6)):
        params, speed = COSTS[method]
        for index, dataset in enumerate(("dtd", "cifar100", "eurosat")):
            for seed in range(2):
                if (method, dataset) != ("ssf", "eurosat"):
                    score = accuracy - index / 20 + seed / 200
                    store.put(
                        make_record(
                            method=method, dataset=dataset, seed=seed, accuracy=score, method_params=params, speed=speed
                        )
                    )
    store.put(make_record(method="lora", backbone="swin_b"))
    assert main(["--results", str(root), "--site", str(root / "site")]) == 0
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with a_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def whole(browser: Any, root: Path) -> Any:
    context = browser.new_context(offline=True, color_scheme="light", viewport={"width": 1400, "height": 900})
    page = watched(context, lambda url: not url.startswith(("file:", "data:", "blob:")))
    page.goto((root / "leaderboard" / "leaderboard.html").as_uri(), wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    return page


@pytest.fixture
def page(whole: Any) -> Any:
    """The page with the larger table as it opens."""
    whole.select_option("#choose-table", label="swin_b, vtab1k, paper defaults")
    whole.select_option("#choose-table", label="vit_b16, vtab1k, paper defaults")
    return whole


def methods(page: Any) -> list[str]:
    return page.locator("#grid tbody th .name > span").all_inner_texts()


def marks(page: Any, node: str, state: str) -> set[str]:
    found = page.locator(f"{node} .mark[data-state={state}]")
    return set(found.evaluate_all("nodes => nodes.map((node) => node.dataset.label)"))


def set_range(page: Any, name: str, position: int) -> None:
    script = "(node, at) => { node.value = at; node.dispatchEvent(new Event('input')); }"
    page.locator(f"#most-{name}").evaluate(script, position)


def test_each_table_can_be_chosen(page: Any) -> None:
    assert page.locator("#choose-table option").count() == 2
    assert methods(page) == ["lora", "vpt", "bitfit", "ssf"]


def test_the_chooser_keeps_to_the_limits(page: Any) -> None:
    # bitfit costs more than vpt and is less accurate; ssf has no mean
    assert marks(page, "#chooser-plot", "front") == {"vpt", "lora"}
    assert marks(page, "#chooser-plot", "fits") == {"bitfit"}
    assert "lora 84.00" in page.locator("#answer").inner_text()
    set_range(page, "trainable", 1)
    assert marks(page, "#chooser-plot", "out") == {"lora"}
    answer = page.locator("#answer").inner_text()
    assert "2 of 3 methods fit" in answer
    assert "vpt 74.00" in answer
    assert page.locator("output[for=most-trainable]").inner_text() == "≤ 277 k"
    set_range(page, "accuracy", 0)
    assert "None of the 3 methods fits" in page.locator("#answer").inner_text()


def test_every_front_point_is_labelled_and_arrow_keys_name_the_points(page: Any) -> None:
    names = page.locator('[data-plot="trainable"] .front-name')
    assert names.all_text_contents() == ["vpt", "lora"]
    page.locator('[data-plot="trainable"] .mark[tabindex="0"]').focus()
    assert page.locator("#tip").inner_text().startswith("vpt\n")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text().startswith("bitfit\n")
    page.keyboard.press("Enter")
    assert page.locator("#records-dialog").is_visible()
    page.keyboard.press("Escape")


def test_the_words_of_a_mark_follow_it_into_view(browser: Any, root: Path) -> None:
    page = browser.new_page(viewport={"width": 900, "height": 300})
    page.goto((root / "leaderboard" / "leaderboard.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    page.locator('[data-plot="trainable"] .mark[tabindex="0"]').focus()
    page.wait_for_function("scrollY > 0")
    # frames later, when the page has told of its scrolling
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    playwright.expect(page.locator("#tip")).to_be_in_viewport(ratio=1)
    mark = page.locator('[data-plot="trainable"] .mark:focus').bounding_box()
    words = page.locator("#tip").bounding_box()
    assert abs(words["x"] - mark["x"]) < 60 and abs(words["y"] - mark["y"]) < 120
    page.close()


def test_a_header_sorts(page: Any) -> None:
    page.locator("#grid thead button", has_text="flat mean").click()
    # an incomplete row has no mean and stays last
    assert methods(page) == ["lora", "vpt", "bitfit", "ssf"]
    page.keyboard.press("Enter")
    assert methods(page) == ["bitfit", "vpt", "lora", "ssf"]
    assert page.locator("#grid th[aria-sort=ascending]").inner_text().startswith("flat mean")


def test_rows_are_filtered_and_columns_chosen(page: Any) -> None:
    page.fill("#search", "bit")
    assert methods(page) == ["bitfit"]
    page.fill("#search", "")
    page.check("#complete")
    assert methods(page) == ["lora", "vpt", "bitfit"]
    page.uncheck("#complete")
    page.select_option("#verdict", "best")
    assert methods(page) == ["lora"]
    page.select_option("#verdict", "")
    page.select_option("#family", "selection")
    assert methods(page) == ["bitfit"]
    page.select_option("#family", "")
    page.click("#columns summary")
    assert page.locator("#columns legend").all_inner_texts() == ["means", "standing", "data sets", "costs"]
    page.uncheck('#columns input[data-column="dtd"]')
    assert "dtd" not in page.locator("#grid thead").inner_text()
    page.keyboard.press("Escape")


def test_the_address_brings_the_view_back(page: Any, browser: Any) -> None:
    page.check('#grid input[aria-label="pick vpt"]')
    page.fill("#search", "selection")
    page.locator("#grid thead button", has_text="rank").click()
    set_range(page, "trainable", 1)
    page.select_option("#chooser-axis", "memory")
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("body[data-ready]")
    assert methods(again) == methods(page) == ["bitfit"]
    assert again.locator("#first").input_value() == "vpt"
    assert again.locator("#chooser-axis").input_value() == "memory"
    assert marks(again, "#chooser-plot", "out") == {"lora"}
    again.close()


def test_what_is_shown_is_downloaded(page: Any, tmp_path: Path) -> None:
    page.fill("#search", "bit")
    with page.expect_download() as got:
        page.click("#csv")
    got.value.save_as(tmp_path / "x.csv")
    [row] = csv.DictReader((tmp_path / "x.csv").open(encoding="utf-8"))
    assert (row["method"], row["dtd"]) == ("bitfit", "70.2 ± 0.4")
    with page.expect_download() as got:
        page.click("#latex")
    got.value.save_as(tmp_path / "x.tex")
    text = (tmp_path / "x.tex").read_text(encoding="utf-8")
    assert "bitfit & " in text
    assert "70.2 $\\pm$ 0.4" in text


def test_a_number_shows_its_records_and_how_to_reproduce_them(page: Any) -> None:
    page.locator('#grid tr[data-label="vpt"] button[data-column="eurosat"]').click()
    playwright.expect(page.locator("#dialog-list button")).to_have_text(
        ["eurosat, seed 0: 70.00 %", "eurosat, seed 1: 70.50 %"]
    )
    page.locator("#dialog-list button").nth(1).click()
    record = json.loads(page.locator("#dialog-json").inner_text())
    assert record["metrics"]["test"]["accuracy"] == 0.705
    assert page.locator("#command").inner_text() == f"python -m peftbench reproduce {record['fingerprint']}"
    page.keyboard.press("Escape")
    assert not page.locator("#records-dialog").is_visible()


def test_two_methods_side_by_side(page: Any) -> None:
    page.select_option("#first", "bitfit")
    page.select_option("#second", "lora")
    assert "B is 20.00 points ahead" in page.locator("#compare-words").inner_text()
    cells = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    lines = {name: words for name, *words in page.locator("#compare tbody tr").evaluate_all(cells)}
    assert lines["trainable parameters"] == ["277 k", "377 k", "1 / 1.36 of B"]
    assert lines["dtd"][2] == "\N{MINUS SIGN}20.00"


def test_data_sets_and_learning_curves_are_drawn(page: Any) -> None:
    assert page.locator("#task-view .heat tbody tr").count() == 4
    page.select_option("#task", "eurosat")
    rows = page.locator("#task-view [role=listitem]")
    assert [words.split(":")[0] for words in rows.evaluate_all("n => n.map((x) => x.ariaLabel)")] == [
        "lora",
        "vpt",
        "bitfit",
    ]
    playwright.expect(page.locator("#curves .curve")).to_have_count(4)
    page.check('#grid input[aria-label="pick vpt"]')
    page.select_option("#curve-value", "lr")
    playwright.expect(page.locator("#curves .curve")).to_have_count(1)
    assert "learning rate" in page.locator("#curves").inner_text()


def test_light_and_dark_differ(page: Any) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.click("#theme")
    assert ground() != light
    page.click("#theme")
    assert ground() == light


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_menu_of_columns_stays_within_the_page(browser: Any, root: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((root / "leaderboard" / "leaderboard.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    page.click("#columns summary")
    box = page.locator("#columns > div").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    page.close()


def test_a_phone_scrolls_down_only(browser: Any, root: Path) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 700}, is_mobile=True)
    page.goto((root / "leaderboard" / "leaderboard.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    # the second table has more rows
    assert page.input_value("#choose-table") == "1"
    for choice in ("heat", "ranks", "dtd"):
        page.select_option("#task", choice)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    # a short name is not broken into lines of three letters
    lines = "nodes => nodes.map((node) => node.offsetHeight / parseFloat(getComputedStyle(node).fontSize))"
    assert max(page.locator("#grid tbody th .name > span").evaluate_all(lines)) < 2
    page.close()


def test_a_site_fetches_records_when_they_are_asked_for(browser: Any, root: Path) -> None:
    with served(root / "site") as here:
        asked: list[str] = []
        page = watched(browser.new_context(), lambda url: not url.startswith((here, "blob:")))
        page.on("request", lambda request: asked.append(request.url.removeprefix(here)))
        page.goto(f"{here}#table=1")
        page.wait_for_selector("body[data-ready]")
        playwright.expect(page.locator("#curves .curve")).to_have_count(4)
        page.locator('#grid tr[data-label="vpt"] button[data-column="eurosat"]').click()
        playwright.expect(page.locator("#dialog-list button").first).to_have_text("eurosat, seed 0: 70.00 %")
        # the first data set for its learning curves, then the one behind the number
        assert asked[0] == ""
        assert [name for name in asked if name.startswith("records/")] == [
            "records/1-0.jsonl.gz",
            "records/1-2.jsonl.gz",
        ]
        assert page.problems == []


def test_nothing_is_fetched_and_nothing_fails(whole: Any) -> None:
    assert whole.problems == []


def test_names_that_every_object_has_are_names_like_others(browser: Any, tmp_path: Path) -> None:
    """The row without `constructor` has no such cell, though every object has something of that name."""
    store = Store(tmp_path)
    for method in ("toString", "lora"):
        for dataset in ("constructor", "__proto__", "dtd"):
            if (method, dataset) != ("toString", "constructor"):
                store.put(make_record(method=method, dataset=dataset, accuracy=0.5))
    assert main(["--results", str(tmp_path)]) == 0
    page = watched(browser.new_context(offline=True), lambda url: not url.startswith(("file:", "data:", "blob:")))
    page.goto((tmp_path / "leaderboard" / "leaderboard.html").as_uri(), wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    assert page.problems == []
    assert sorted(methods(page)) == ["lora", "toString"]


def test_what_trains_nothing_is_chosen_and_drawn_at_zero(browser: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for method, count, accuracy in (("zero_shot", 0, 0.5), ("coop", 384, 0.52), ("maple", 40_000, 0.51)):
        store.put(make_record(method=method, accuracy=accuracy, method_params=count, head_params=0))
    assert main(["--results", str(tmp_path)]) == 0
    page = watched(browser.new_context(offline=True), lambda url: not url.startswith(("file:", "data:", "blob:")))
    page.goto((tmp_path / "leaderboard" / "leaderboard.html").as_uri(), wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    assert page.problems == []
    assert marks(page, "#chooser-plot", "front") == {"zero_shot", "coop"}
    answer = page.locator("#answer").inner_text()
    assert "fewest parameters" in answer and "50.00 %, 0 parameters" in answer
    assert page.locator("#chooser-plot text.axis").all_text_contents().count("0") == 1


def test_every_printed_table_is_drawn_those_without_costs_too(browser: Any, tmp_path: Path) -> None:
    Store(tmp_path).put(make_record())
    assert main(["--results", str(tmp_path), "--published", "all"]) == 0
    page = watched(browser.new_context(offline=True), lambda url: not url.startswith(("file:", "data:", "blob:")))
    page.goto((tmp_path / "leaderboard" / "published" / "leaderboard.html").as_uri(), wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    titles = page.locator("#choose-table option").all_inner_texts()
    assert len([title for title in titles if title.endswith("as published")]) > 20
    costless = 0
    for title in titles:
        page.select_option("#choose-table", label=title)
        assert page.locator("h2", has_text=title).count() == 1 and page.problems == [], title
        costless += page.locator("#chooser-plot", has_text="no complete row knows a cost").count()
    assert costless > 5


def test_classes_have_a_heat_map_and_a_record_its_picture(browser: Any, tmp_path: Path) -> None:
    """Two segmentation records: one class each method finds, one that occurs for one of them only, one kept picture."""
    store = Store(tmp_path)
    found = {"lora": {"iou/sky": 0.9, "iou/road": 0.25}, "bitfit": {"iou/sky": 0.6}}
    for method, classes in found.items():
        values = record_values(
            method=method, dataset="scenes", group="dense", options={"task": {"name": "segmentation", "version": 1}}
        )
        values |= {
            "metrics": {"val": None, "test": {"miou": 0.6 if method == "lora" else 0.5, "n": 10_000, **classes}},
            "primary": "miou",
            "task": {"name": "segmentation", "better": "higher", "unit": "fraction"},
            "curve": [],
        }
        values["labels"] = {**values["labels"], "task": "segmentation"}
        values["fingerprint"] = fingerprint(values["identity"])
        store.put(RunRecord(**values))
        if method == "lora":
            picture = store.picture_path(values["fingerprint"])
            picture.parent.mkdir(parents=True)
            Image.new("RGB", (260, 130), (10, 200, 30)).save(picture)
    assert main(["--results", str(tmp_path), "--site", str(tmp_path / "site")]) == 0
    assert [path.name for path in (tmp_path / "site" / "pictures").iterdir()] == [picture.name]
    page = watched(
        browser.new_context(offline=True, viewport={"width": 1400, "height": 900}),
        lambda url: not url.startswith(("file:", "data:", "blob:")),
    )
    page.goto((tmp_path / "leaderboard" / "leaderboard.html").as_uri(), wait_until="commit")
    page.wait_for_selector("body[data-ready]")
    page.select_option("#task", "classes")
    cells = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    assert page.locator("#task-view .heat tr").evaluate_all(cells) == [
        ["method", "road", "sky"],
        ["lora", "25.0", "90.0"],
        ["bitfit", "—", "60.0"],
    ]
    grounds = page.locator("#task-view .heat td").evaluate_all("nodes => nodes.map((node) => node.style.background)")
    assert len(set(grounds)) == 4 and grounds[2] == ""
    page.locator('#grid tr[data-label="lora"] button[data-column="scenes"]').click()
    shown = page.locator("#dialog-picture img")
    playwright.expect(shown).to_be_visible()
    playwright.expect(shown).to_have_js_property("naturalWidth", 260)
    playwright.expect(shown).to_have_js_property("naturalHeight", 130)
    page.keyboard.press("Escape")
    page.locator('#grid tr[data-label="bitfit"] button[data-column="scenes"]').click()
    playwright.expect(page.locator("#dialog-list button")).to_have_count(1)
    playwright.expect(page.locator("#dialog-picture img")).to_have_count(0)
    assert page.problems == []
