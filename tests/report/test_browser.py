"""The page in a real browser: silent console, no request, every chart seen, in light, dark and on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.analysis.tables import make_table, random_examples
from tests.experiments.made import PLAN, results, said
from tests.report.browser import CHROMIUM, DRIVER, Browser, open_browser

from sftloss.analysis import AnalysisOptions, describe_signal
from sftloss.document import Document
from sftloss.experiments.pages.describe import experiment_document
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


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a comparison, with four ways to train and long names side by side."""
    plan = replace(PLAN, losses=("cross_entropy", "focal(gamma=2)"), normalizations=("token-mean", "example-mean"))
    given = results(0.5, experiment=plan)
    path: Path = tmp_path_factory.mktemp("page") / "compared.html"
    told = {arm: tuple(replace(one, reference="white cat " * 6) for one in said(arm)) for arm in given.arms}
    Report(experiment_document(plan, given, told)).to_html(path)
    return path.as_uri()


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of an analysis of three losses, with two faults."""
    examples = [example | {"truncated": int(i % 5 == 0)} for i, example in enumerate(random_examples())]
    table = make_table(examples, objectives=("cross_entropy", "focal(gamma=2)", "dft"))
    path: Path = tmp_path_factory.mktemp("page") / "analysed.html"
    Report(describe_signal(table, AnalysisOptions(replicates=50, micro_batch=4))).to_html(path)
    return path.as_uri()


@pytest.fixture
def any_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_an_answer_its_faults_and_its_chart_stand_on_the_first_screen(
    browser: Browser, analysed: str, width: int, height: int
):
    browser.show(width=width, height=height)
    browser.get(analysed)
    bottoms = browser.ask(
        "return ['.answer .lead', '.answer .faults', '.answer .picture svg'].map("
        "s => document.querySelector(s).getBoundingClientRect().bottom)"
    )
    assert max(bottoms) <= height
    assert browser.ask("return document.documentElement.scrollWidth") <= width
    shown = browser.ask(
        "return [...document.querySelectorAll('.answer td')].every(e => e.scrollWidth <= e.clientWidth + 1)"
    )
    assert shown  # no cell is cut


every_page = pytest.mark.parametrize("any_url", ["url", "compared"], indirect=True)


def _requested(browser: Browser) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@every_page
def test_page_asks_the_network_for_nothing_and_the_console_stays_silent(browser: Browser, any_url: str):
    browser.log("performance")
    browser.get(any_url)
    urls = _requested(browser)
    assert any_url in urls  # the log does see requests
    assert [u for u in urls if u != any_url and not u.startswith("data:,")] == []
    assert browser.log("browser") == []


def test_content_policy_refuses_a_script_and_a_request_that_are_not_ours(browser: Browser, url: str):
    browser.get(url)
    browser.ask("const s = document.createElement('script'); s.textContent = 'window.bad = 1'; document.body.append(s)")
    browser.ask("const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x'; document.body.append(i)")
    assert browser.ask("return window.bad ?? null") is None
    assert all("Content Security Policy" in entry["message"] for entry in browser.log("browser"))


@every_page
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_every_chart_is_visible_and_nothing_leaves_the_screen(browser: Browser, any_url: str, width: int, scheme: str):
    browser.show(width=width, scheme=scheme)
    browser.get(any_url)
    boxes = browser.ask(
        "return [...document.querySelectorAll('figure.chart')].map(figure => {"
        "const [s, ...more] = [...figure.querySelectorAll('svg[role=img]')].filter(s => s.checkVisibility());"
        "const b = s.getBoundingClientRect(), size = b.width / s.viewBox.baseVal.width;"
        "return [b.width, b.height, size, more.length] })"
    )
    assert len(boxes) > (6 if "compared" in any_url else 40)
    for across, down, size, more in boxes:  # one of its two drawings, with letters of 13 pixels or nearly
        assert across > 250 and down > 60 and size > 0.8 and more == 0
    moves = "return [...document.querySelectorAll('.picture, .scroll')].every(e => e.scrollWidth <= e.clientWidth + 1)"
    assert width > 500 or browser.ask(moves)  # nothing has to be moved sideways on a phone
    wide, screen = browser.ask("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= screen


def test_a_table_side_by_side_uses_the_room_beside_its_column(browser: Browser, compared: str):
    """What fits the page needs no scrolling, and a narrow one has nothing at its right edge to scroll to."""
    browser.show(width=1200)
    browser.get(compared)
    script = (
        "return [...document.querySelectorAll('#s-outputs > .scroll, #s-metrics > .scroll')]"
        ".map(s => [s.scrollWidth, s.clientWidth, document.querySelector('main').clientWidth])"
    )
    found = browser.ask(script)
    assert all(needed <= there for needed, there, _ in found)
    assert max(there for _, there, _ in found) > found[0][2] > min(there for _, there, _ in found)


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
