"""What a mark of a chart looks like, and what the legend calls it."""

from __future__ import annotations

import re

from tests.report._html import Page

from sftloss.document import Chart, Document, Section, Series
from sftloss.report import from_json, render_html, to_json
from sftloss.report.charts.charts import render_chart
from sftloss.report.charts.svg import SERIES

SURE = Series("sure", ("a", "b"), (1.0, None), (0.5, None), (1.5, None))
OPEN = Series("open", ("a", "b"), (None, 0.2), (None, -0.5), (None, 1.0), is_faint=True)
FOREST = Chart("f", "point", "F", "arm", "v", (SURE, OPEN), "d", bounds="99.67% interval")


def lines(*series: Series, bounds: str = "interval") -> Chart:
    return Chart("l", "line", "L", "step", "v", series, "d", bounds=bounds)


def document(chart: Chart) -> Document:
    return Document("d", (), (), (Section("s", "S", "l", charts=(chart,)),))


def markers(svg: str) -> list[str]:
    """The styles of what is drawn, of marks and lines."""
    return re.findall(r'style="([^"]*)"', svg)


def test_a_faint_point_is_hollow_and_grey_and_a_sure_one_is_neither():
    svg = render_chart(FOREST, prefix="p")
    hollow = [style for style in markers(svg) if "fill: var(--paper" in style]
    assert hollow and all("stroke: var(--muted" in style for style in hollow)
    assert any(f"fill: var(--c0,{SERIES[0]}" in style for style in markers(svg)) and "var(--c1" not in svg


def heights(svg: str) -> set[float]:
    """Where marks stand, from top to bottom."""
    return {float(y) for y in re.findall(r'<use [^>]*\by="([0-9.]+)"', svg)}


def test_series_that_share_no_row_stand_in_the_middle_of_theirs():
    """Rows then stand equally far apart. Two series that do share a row are set apart in it."""
    three = (Series("s", ("a", "b", "c"), (1.0, None, 1.0)), Series("t", ("a", "b", "c"), (None, 2.0, None)))
    top, middle, low = sorted(heights(render_chart(Chart("f", "point", "F", "arm", "v", three, "d"), prefix="p")))
    assert abs((middle - top) - (low - middle)) < 0.1  # coordinates have two decimals
    shared = (Series("s", ("a", "b"), (1.0, 0.2)), Series("t", ("a",), (2.0,)))
    assert len(heights(render_chart(Chart("f", "point", "F", "arm", "v", shared, "d"), prefix="p"))) == 3


def test_a_legend_says_what_the_bounds_are():
    banded = Series("s", (0.0, 1.0), (1.0, 2.0), (0.5, 1.5), (1.5, 2.5))
    page = render_html(document(lines(banded, bounds="lowest to highest seed")))
    assert "shaded: lowest to highest seed" in page and "shaded: interval" in render_html(document(lines(banded)))
    forest = render_html(document(FOREST))
    assert "line: 99.67% interval" in forest
    assert forest.count('<circle cx="14" cy="6" r="4" stroke="var(--muted)"') == 1  # hollow in the legend too


def test_faint_lines_are_grey_and_have_no_name_in_the_legend():
    chart = lines(Series("named", (0.0, 1.0), (1.0, 2.0)), *(
        Series(f"other {k}", (0.0, 1.0), (1.0, k), is_faint=True) for k in (3.0, 4.0)))  # fmt: skip
    svg = render_chart(chart, prefix="p")
    assert "var(--c1" not in svg and len([s for s in markers(svg) if "var(--reference" in s and "opacity" in s]) == 2
    page = Page(render_html(document(chart)))
    legend = [i for i, (tag, at) in enumerate(page.tags) if tag == "ul" and at.get("class") == "legend"]
    assert len(legend) == 1 and sum(tag == "svg" and at.get("class") == "swatch" for tag, at in page.tags) == 1


def test_marks_survive_the_json_and_an_older_report_has_none():
    found = document(FOREST)
    assert from_json(to_json(found)) == found
    old = to_json(found).replace('"bounds": "99.67% interval",', "").replace('"is_faint": true,', "")
    chart = from_json(old).sections[0].charts[0]
    assert chart.bounds == "interval" and not chart.series[1].is_faint
