"""The documentation site: complete, without a dead link, with every public name. Only the last test needs mkdocs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from scripts import docs_site
from tests.paths import ROOT

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


@pytest.mark.slow
def test_the_site_builds_and_asks_no_other_host(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "latex2mathml")):
        pytest.skip("the extra docs is not installed: make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) >= len(texts())
    asset = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"https?:|<link[^>]+href=\"https?:")
    for path in built:
        text = path.read_text(encoding="utf-8")
        assert not asset.search(text), path.name
        assert "arithmatex" not in text, f"{path.name}: a formula that was not converted"
