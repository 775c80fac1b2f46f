"""The documentation site builds in strict mode, without a network, with a page for each method."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from filelock import FileLock

from peftbench.methods.base import METHODS
from tests.browsing import a_browser, needs_browser, served, watched
from tests.conftest import REPOSITORY

pytest.importorskip("material")
pytest.importorskip("mkdocstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    def refused(*_: object) -> None:
        raise OSError("no network here")

    # processes of one run share what one of them built
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if os.environ.get("PYTEST_XDIST_WORKER") else shared
    folder, done = shared / "site", shared / "site.done"
    with FileLock(shared / "site.lock"):
        if not done.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(socket.socket, "connect", refused)
                # raises Abort for a warning: a link to nowhere, a name that the code does not have
                build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(folder)))
            done.touch()
    return folder


def test_every_method_has_a_page_with_its_options(site: Path) -> None:
    for name in METHODS.names():
        dataset = "moving_shapes" if METHODS.get(name).mixes_time else "digits"
        dataset = "scenes task=several" if METHODS.get(name).by_task else dataset
        assert f"method={name} dataset={dataset}" in (site / "methods" / f"{name}.html").read_text()
    assert "method.rank" in (site / "methods" / "lora.html").read_text()


def test_the_reference_shows_signatures_and_their_text(site: Path) -> None:
    page = (site / "api.html").read_text()
    for name in ("attach", "run", "leaderboard", "predictor", "Method"):
        assert re.search(rf'<h\d id="peftbench\.[a-z_.]*\.{name}"', page), name
    assert "leaderboard" in (site / "commands.html").read_text()


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, (page.name, loaded)


@pytest.mark.slow
@needs_browser
def test_pages_can_be_searched_from_disk_and_from_a_server(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with a_browser() as browser, served(site) as address:
        for start in (site.as_uri() + "/", address):
            page = watched(browser.new_context(), lambda url, start=start: not url.startswith((start, "blob:")))
            page.goto(f"{start}methods/lora.html")
            page.locator(".md-search__input").click()
            page.locator(".md-search__input").press_sequentially("bitfit")
            # answers to "b", "bi" and so on come and go on the way
            playwright.expect(page.locator(".md-search-result__item a").first).to_have_attribute(
                "href", re.compile(r"methods/bitfit\.html\?h=bitfit")
            )
            assert page.problems == []
