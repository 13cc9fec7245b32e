"""The page in a real browser: silent console, no request, every chart seen, in light, dark and on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.report.browser import CHROMIUM, DRIVER, Browser, open_browser

from sftloss.analysis.document import Document
from sftloss.report import Report

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture(scope="module")
def url(hostile: Document, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    Report(hostile).to_html(path)
    return path.as_uri()


def _requested(browser: Browser) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def test_page_asks_the_network_for_nothing_and_the_console_stays_silent(browser: Browser, url: str):
    browser.log("performance")
    browser.get(url)
    urls = _requested(browser)
    assert url in urls  # the log does see requests
    assert [u for u in urls if u != url and not u.startswith("data:,")] == []
    assert browser.log("browser") == []


def test_content_policy_refuses_a_script_and_a_request_that_are_not_ours(browser: Browser, url: str):
    browser.get(url)
    browser.ask("const s = document.createElement('script'); s.textContent = 'window.bad = 1'; document.body.append(s)")
    browser.ask("const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x'; document.body.append(i)")
    assert browser.ask("return window.bad ?? null") is None
    assert all("Content Security Policy" in entry["message"] for entry in browser.log("browser"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_chart_is_visible_and_nothing_leaves_the_screen(browser: Browser, url: str, width: int, scheme: str):
    browser.show(width=width, scheme=scheme)
    browser.get(url)
    boxes = browser.ask(
        "return [...document.querySelectorAll('svg[role=img]')].map(s => { const b = s.getBoundingClientRect();"
        "return [b.width, b.height, s.checkVisibility()] })"
    )
    assert len(boxes) > 40 and all(w > 250 and h > 60 and is_visible for w, h, is_visible in boxes)
    wide, screen = browser.ask("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= screen


def test_dark_mode_turns_paper_dark_and_charts_light(browser: Browser, url: str):
    seen = []
    for scheme in ("light", "dark"):
        browser.show(width=1280, scheme=scheme)
        browser.get(url)
        script = (
            "const s = getComputedStyle(document.querySelector('svg[role=img] text'));"
            "return [getComputedStyle(document.body).backgroundColor, s.fill]"
        )
        seen.append(browser.ask(script))
    assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1]


def test_strip_is_coloured_by_the_measure_that_is_chosen(browser: Browser, url: str):
    browser.show(width=1280)
    browser.get(url)
    colour = "return getComputedStyle(document.querySelector('.tokens .r1')).backgroundColor"
    by_loss = browser.ask(colour)
    browser.ask("document.querySelector('.strips .by-b').click()")
    assert browser.ask(colour) != by_loss


def test_every_shade_of_a_strip_has_its_own_colour(browser: Browser, url: str):
    browser.show(width=1280)
    browser.get(url)
    shades = browser.ask(
        "return [1, 2, 3, 4, 5].map(k => document.querySelector(`.tokens .a${k}`))"
        ".map(token => token && getComputedStyle(token).backgroundColor)"
    )
    assert None not in shades and "rgba(0, 0, 0, 0)" not in shades and len(set(shades)) == 5


def test_page_reads_without_any_script(url: str, tmp_path: Path):
    with open_browser(tmp_path, "--blink-settings=scriptEnabled=false") as browser:
        browser.get(url)
        assert browser.call("POST", "/elements", {"using": "css selector", "value": ".fix button"}) == []
        (heading,) = browser.call("POST", "/elements", {"using": "css selector", "value": "#findings-h"})
        assert "Findings" in browser.call("GET", f"/element/{next(iter(heading.values()))}/text")
