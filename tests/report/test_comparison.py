"""Two runs on one page: what differs, then each section beside itself."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.report._html import Page
from tests.report.conftest import SCRIPT

from sftloss.document import Chart, Document, Series
from sftloss.report import render_comparison
from sftloss.report.charts.charts import render_chart


@pytest.fixture(scope="module")
def page(calm: Document) -> Page:
    other = replace(calm, findings=calm.findings[1:2], sections=calm.sections[:2], facts=(("Model", "another"),))
    return Page(render_comparison([calm, other], ["token mean", SCRIPT]))


def test_comparison_has_every_id_once_and_headings_in_order(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))


def test_comparison_says_what_only_one_run_has(page: Page):
    shown = "".join(page.text)
    assert "not found" in shown and "This run has no such section." in shown and "(differs)" in shown


def test_comparison_shows_the_charts_of_both_runs_and_labels_as_text(page: Page, calm: Document):
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    charts = [len(section.charts) for section in calm.sections]
    assert len(pictures) == 2 * (sum(charts) + sum(charts[:2]))
    assert SCRIPT in "".join(page.text) and not page.all("img")


@pytest.mark.parametrize("labels", [[], ["one", "two"]])
def test_comparison_asks_for_one_label_a_document(calm: Document, labels: list[str]):
    with pytest.raises(ValueError, match="render_comparison: got 1 documents"):
        render_comparison([calm], labels)


def test_comparison_tells_every_finding_of_every_run(calm: Document):
    first = calm.findings[1]
    twice = replace(calm, findings=(first, replace(first, sentence="The same of another group.")))
    other = replace(calm, findings=(replace(first, sentence="Less of it here."),))
    shown = "".join(Page(render_comparison([twice, other], ["a", "b"])).text)
    for sentence in (first.sentence, "The same of another group.", "Less of it here."):
        assert shown.count(sentence) == 1


@pytest.mark.parametrize("kind", ["bar", "point", "line"])
def test_charts_side_by_side_share_their_scale(kind):
    def chart(largest: float) -> Chart:
        xs = ("a", "b") if kind != "line" else (0.0, 1.0)
        return Chart("c", kind, "C", "x", "y", (Series("s", xs, (1.0, largest)),), "D.")

    def ticks(source: str) -> set[str]:
        return set(re.findall(r">(\d+)</text>", source)) - {"0", "1"}

    small, large = chart(2.0), chart(40.0)
    assert ticks(render_chart(small, prefix="p")) != ticks(render_chart(large, prefix="p"))
    pair = render_chart(small, prefix="p", alongside=(large,)), render_chart(large, prefix="p", alongside=(small,))
    assert ticks(pair[0]) == ticks(pair[1]) != set()
