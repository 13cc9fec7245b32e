"""The page: one file, the same bytes for the same document, and somebody's data is text in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report._html import Page
from tests.report.conftest import HOSTILE, SCRIPT

from sftloss.document import Chart, Column, Document, Section, Series, Table, TokenStrip
from sftloss.report import render_html
from sftloss.report.page.html import MAX_BYTES


@pytest.fixture(scope="module")
def source(hostile: Document) -> str:
    return render_html(hostile)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_page_is_well_formed(page: Page):
    assert page.tags[0][0] == "html"


def test_page_has_every_id_once_and_every_reference_has_its_id(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "url(#" in (attributes.get("clip-path") or ""):
            assert attributes["clip-path"][5:-1] in ids


def test_page_headings_descend_one_level_at_a_time(page: Page):
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))


def test_page_has_landmarks_and_a_skip_link(page: Page):
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.tags}
    assert page.all("a")[0]["href"] == "#findings"


def test_page_shows_hostile_text_as_text(page: Page):
    shown = " ".join("".join(page.text).split())
    breaking = (SCRIPT, "goes {{7*7}} {% raw %}", 'line separator" onload="x', "$x^2$ | `code` & <b>")
    for text in (*breaking, "مرحبا بالعالم", HOSTILE[6]):
        assert text in shown
    assert "goes 49" not in shown  # a title that begins so with {{7*7}}, were it a template
    assert not page.all("img") and not page.all("b")


def test_page_runs_only_our_script_and_links_only_into_itself(page: Page):
    assert len(page.all("script")) == 1 and set(page.all("script")[0]) == {"data-copy", "data-copied", "data-select"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#")[0] == "#" or attributes["href"] == "data:,"
        assert "src" not in attributes


def test_page_has_no_control_characters(source: str):
    assert not [c for c in source if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u2028\u2029\u202e"]


def test_page_forbids_everything_but_its_own_style_and_script(page: Page):
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';") and "script-src 'sha256-" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_findings_come_first_and_the_worst_of_them_before_the_others(page: Page):
    kinds = [attributes["class"] for _, attributes in page.tags if "finding" in (attributes.get("class") or "").split()]
    assert kinds == ["finding error", "finding warning", "finding info"]
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections[0] == "findings"


def test_finding_says_its_severity_number_and_interval_in_words(page: Page):
    shown = "".join(page.text)
    for text in ("Error", "Warning", "Note", "41 %", "95 % interval 39 % to 43 %", "0.71×"):
        assert text in shown


def test_every_chart_has_a_text_alternative_and_its_numbers(hostile: Document, page: Page):
    charts = sum(len(section.charts) for section in hostile.sections)
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == 2 * charts == 2 * "".join(page.text).count("Numbers of this chart")  # wide and narrow
    assert sum(tag == "desc" for tag, _ in page.tags) == 2 * charts


def test_interval_is_named_only_where_one_is_drawn():
    told = []
    for low, high in ((None, None), ((None,), (None,)), ((0.5,), (1.5,))):
        chart = Chart("c", "point", "C", "", "v", (Series("s", ("a",), (1.0,), low, high),), "d")
        told.append("line: interval" in render_html(Document("d", (), (), (Section("s", "S", "l", charts=(chart,)),))))
    assert told == [False, False, True]


def test_chart_text_stays_text(source: str):
    # a Chinese category label, its first line (13 wide characters fill the 26 columns), not outlines
    assert source.count(f"{HOSTILE[6][:13]}</text>") >= 2


def _bars(names: tuple[str, ...], series: int) -> str:
    shares = tuple(0.1 * (i + 1) for i in range(len(names)))
    every = tuple(Series(f"series {i}", names, shares) for i in range(series))
    chart = Chart("c", "bar", "C", "group", "share", every, "d", scale_x="category", format_y="percent")
    return render_html(Document("d", (), (), (Section("s", "S", "l", charts=(chart,)),)))


def test_bars_lie_down_where_their_names_do_not_fit_side_by_side():
    short, long = ("a", "b", "c"), tuple(f"a_name_that_does_not_fit_{i}" for i in range(8))
    assert 'viewBox="0 0 620 310"' in _bars(short, 2)
    assert 'viewBox="0 0 620 310"' not in _bars(long, 2)


def test_many_series_of_bars_are_drawn_as_dots_with_their_own_shapes():
    names = ("a", "b", "c")
    assert _bars(names, 3).count('<rect x="8"') == 3  # swatches of bars
    assert '<rect x="8"' not in _bars(names, 4)


def test_axis_does_not_magnify_rounding():
    series = Series("s", ("a", "b"), (1.0, 1.000000003))
    chart = Chart("c", "line", "C", "group", "factor", (series,), "d", scale_x="category", format_y="ratio")
    source = render_html(Document("d", (), (), (Section("s", "S", "l", charts=(chart,)),)))
    picture = source[source.index("<svg viewBox") : source.index('<p class="says">')]
    assert ">1×</text>" in picture and "1.00000" not in picture


def test_level_badge_is_short_and_explains_itself():
    source = render_html(Document("d", (), (), (Section("s", "S", "l", level="S1 logit: c times the L1 norm"),)))
    assert 'title="c times the L1 norm">S1 logit</span>' in source
    source = render_html(Document("d", (), (), (Section("s", "S", "l", level="S0"),)))
    assert 'title="S0: nominal weight' in source


def test_fix_is_copied_as_it_was_given(calm: Document):
    fix = "sftloss analyze --loss token_mean  --out a-b\nsecond: line  # with  spaces"
    finding = replace(calm.findings[1], fix=fix)
    assert fix in "".join(Page(render_html(replace(calm, findings=(finding,)))).text)


def test_only_what_can_be_run_or_pasted_is_code(calm: Document):
    def shown(fix: str) -> str:
        return render_html(replace(calm, findings=(replace(calm.findings[1], fix=fix),)))

    assert "<pre" not in shown("read the rows listed") and "Read the rows listed." in shown("read the rows listed")
    both = shown("look at a milder loss: sftloss analyze --loss dft")
    assert '<p class="do">Look at a milder loss:</p>' in both
    assert re.search(r"<pre[^>]*><code>sftloss analyze <span", both)


def test_numbers_of_a_chart_are_told_once():
    line = Series("a", tuple(map(float, range(9))), (1.0,) * 9)
    chart = Chart("c", "line", "Along", "x", "y", (line,), "It is flat")
    rows = tuple((f"row {i}", 1.0) for i in range(9))
    table = Table("c", "Along", (Column("a", "A"), Column("b", "B", "number")), rows)
    section = Section("s", "S", "Lead.", charts=(chart, replace(chart, id="d", title="Other")), tables=(table,))
    source = render_html(Document("d", (), (), (section,)))
    assert source.count("row 8") == 1 and '<p class="says">It is flat.</p>' in source
    short = replace(table, rows=rows[:3])  # it may say more than the chart, and is no burden
    assert "row 2" in render_html(Document("d", (), (), (replace(section, tables=(short,)),))).split("Numbers of")[-1]
    same = replace(section, lead="It is flat")
    assert '<p class="says">' not in render_html(Document("d", (), (), (same,)))


def test_no_line_breaks_inside_a_flag_or_before_a_percent_sign():
    table = Table("t", "T", (Column("a", "A"), Column("b", "B")), (("x", "--normalization example-mean"),))
    source = render_html(Document("d", ("24 % of it.",), (), (Section("s", "S", "l", tables=(table,)),)))
    assert '<span class="whole">--normalization</span> <span class="whole">example-mean</span>' in source
    assert "24\u00a0% of it." in source
    bound = render_html(Document("d", ("32 % have p \u2265 0.99, 1 % p < 0.01.",), (), ()))
    assert "p\u00a0\u2265\u00a00.99" in bound and "p\u00a0&lt;\u00a00.01" in bound


def test_undefined_cells_are_empty_and_never_zero(calm: Document):
    columns = (Column("a", "A"), Column("b", "B", "percent"), Column("c", "C", "number"))
    table = Table("t", "T", columns, (("row", None, float("nan")),))
    source = render_html(Document("d", (), (), (Section("s", "S", "l", tables=(table,)),)))
    assert '<td class="n"><bdi></bdi></td><td class="n"><bdi></bdi></td>' in source


def test_page_of_an_empty_document_says_that_nothing_was_found():
    shown = "".join(Page(render_html(Document("Quiet", (), (), ()))).text)
    assert "Nothing was found that needs attention." in shown


def test_page_stays_within_its_budget_and_says_what_it_hides(hostile: Document):
    long = tuple((f"row {i} " + "x" * 300, *(float(i),) * 12) for i in range(5000))
    table = Table("t", "T", tuple(Column(str(i), str(i), "number" if i else "text") for i in range(13)), long)
    n = 20_000
    strip = TokenStrip("s", ("loss",), tuple("token" for _ in range(n)), ("response",) * n, ((0.5,) * n,))
    points = tuple(float(i) for i in range(n))
    chart = Chart("c", "line", "C", "x", "y", (Series("s", points, points),), "Many points.")
    sections = tuple(Section(f"s{i}", "S", "l", tables=(table,) * 3, strips=(strip,) * 4) for i in range(12))
    source = render_html(replace(hostile, sections=(*sections, Section("c", "C", "l", charts=(chart,)))))
    assert len(source.encode()) <= MAX_BYTES
    assert "more rows are in the JSON report" in source and "more tokens are in the JSON report" in source


_ONCE = """
import sys
from tests.report.conftest import HOSTILE, build
from sftloss.report import render_html, to_json, render_markdown
d = build(HOSTILE[:3])
sys.stdout.buffer.write((render_html(d) + to_json(d) + render_markdown(d)).encode())
"""


def test_equal_documents_give_equal_bytes_in_two_processes():
    root = Path(__file__).parents[2]
    written = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
        done = subprocess.run([sys.executable, "-c", _ONCE], env=environment, capture_output=True, check=True)
        written.append(done.stdout)
    assert written[0] == written[1] and len(written[0]) > 100_000


def test_charts_leave_no_trace_in_matplotlib_and_take_none_of_its_settings(calm: Document):
    import matplotlib

    plain = render_html(calm)
    with matplotlib.rc_context({"lines.linewidth": 7.5, "font.size": 33, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        assert render_html(calm) == plain
        assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
