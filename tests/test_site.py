"""The documentation site: complete, without a dead link, with every public name. Only the slow tests need mkdocs."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from scripts import docs_site
from tests.paths import ROOT
from tests.report.browser import CHROMIUM, DRIVER, Browser, open_browser

HEADING = re.compile(r"^#{1,6} (.+?)(?: \{#([\w.-]+)\})?$", re.M)


@cache
def texts() -> dict[str, str]:
    """Markdown of every page of the site by its address, with links of the site."""
    made = docs_site.reference_pages()
    written = {page: (ROOT / docs_site.source_of(page)).read_text(encoding="utf-8") for page in docs_site.pages()}
    return made | {page: docs_site.with_links_of_the_site(text, page) for page, text in written.items()}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as mkdocs makes them."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    named = {own or slug(title) for title, own in HEADING.findall(without_code)}
    return named


def slug(title: str) -> str:
    words = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]|\]\([^)]*\)", "", title)).strip().lower()
    return re.sub(r"[-\s]+", "-", words)


def test_the_navigation_names_every_page_once() -> None:
    nav = docs_site.nav_pages()
    assert len(nav) == len(set(nav))
    unnamed = docs_site.unnamed_pages()
    assert {*nav, *unnamed["studies.md"]} == {*docs_site.pages(), "reference/index.md"}
    assert set(unnamed) <= set(nav)


def test_links_lead_to_pages_and_headings() -> None:
    for page, text in texts().items():
        prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.M | re.S)
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)", prose):
            path, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            assert file in texts(), f"{page}: {target}"
            assert not anchor or anchor in anchors(texts()[file]), f"{page}: no heading for {target}"


def test_pictures_are_files_of_the_repository() -> None:
    for page, text in texts().items():
        for target in re.findall(r"!\[[^\]]*\]\(([^()\s]+)\)", text):
            assert "://" not in target, f"{page} would ask another host for {target}"


def test_every_public_name_has_an_entry_in_the_reference() -> None:
    pages = docs_site.reference_pages()
    for module, name in docs_site.public_names():
        assert f"## `{name}` {{#{name}}}" in pages[f"reference/{module}.md"], f"{module}.{name}"
        assert f"({module}.md)" in pages["reference/index.md"]


def test_entries_have_their_words_formulas_and_sources() -> None:
    page = docs_site.reference_pages()["reference/sftloss.objectives.md"]
    entry = page.split("## `focal` {#focal}")[1].split("\n## ")[0]
    for part in (
        "    gamma: float = 2.0,",
        "$$",
        "**Gradient**",
        "- `gamma`:",
        "1708.02002",
        ">>> ",
    ):
        assert part in entry, part
    assert not re.search(r":math:|\.\. math|::\n", "".join(docs_site.reference_pages().values()))


def test_a_link_that_leads_nowhere_is_found() -> None:
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        docs_site.with_links_of_the_site("[a page](not_there.md)", "speed.md")


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml")
    html = docs_site.with_mathml(r'<span class="arithmatex">\(\bigl\vert p &lt; q \bigr\vert\)</span>')
    assert html.startswith("<math") and "\\" not in html
    html = docs_site.with_mathml(r'<span class="arithmatex">\(\log p + \log^2 p\)</span>')
    assert html.count("<mspace") == 1  # "log p", not "logp"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    if not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "latex2mathml")):
        pytest.skip("the extra docs is not installed: make docs")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_and_asks_no_other_host(site: Path) -> None:
    built = list(site.rglob("*.html"))
    assert len(built) >= len(texts())
    asset = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"https?:|<link[^>]+href=\"https?:")
    for path in built:
        text = path.read_text(encoding="utf-8")
        assert not asset.search(text), path.name
        assert "arithmatex" not in text, f"{path.name}: a formula that was not converted"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing for a request."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the built site is served: the search needs a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium or chromedriver is not installed")
    with open_browser(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "page"), [("focal", "objectives"), ("packing", "lengths"), ("gradient accumulation", "sftloss.testing")]
)
def test_the_search_finds_pages_and_asks_no_other_host(browser: Browser, address: str, query: str, page: str) -> None:
    browser.show(width=1280)
    browser.log("performance")
    browser.get(f"{address}/index.html")
    box = browser.call("POST", "/element", {"using": "css selector", "value": "input.md-search__input"})
    browser.call("POST", f"/element/{next(iter(box.values()))}/value", {"text": query})
    links: list[str] = []
    for _ in range(200):
        links = browser.ask("return [...document.querySelectorAll('.md-search-result__link')].map(a => a.href)")
        if links:
            break
        time.sleep(0.1)
    assert any(f"/{page}.html" in link or f".{page}.html" in link for link in links), links
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert f"{address}/search/search_index.json" in urls
    assert not [url for url in urls if not url.startswith((address, "data:", "blob:"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index", "findings", "lengths", "how-to/trl"])
def test_on_a_phone_nothing_goes_sideways_and_code_scrolls_inside_itself(
    browser: Browser, address: str, page: str
) -> None:
    browser.show(width=390, height=844)
    browser.get(f"{address}/{page}.html")
    assert browser.ask("return document.documentElement.scrollWidth") <= 390
    cut = browser.ask(
        "return [...document.querySelectorAll('pre > code')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "!['auto', 'scroll'].includes(getComputedStyle(e).overflowX)).map(e => e.textContent)"
    )
    assert not cut
