"""Terminal, Markdown and JSON: the same document, and nothing in it is obeyed."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest

from sftloss.document import Column, Document, Finding, Interval, Section, Series, Table
from sftloss.errors import DataError
from sftloss.report import from_json, render_html, render_markdown, render_terminal, schema, to_json
from sftloss.report.format import finding_number, format_cell
from sftloss.report.markdown import escape


def _terminal(document: Document, *, width: int = 100, encoding: str = "utf-8", **options: object) -> str:
    from rich.console import Console

    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    console = Console(file=file, width=width, legacy_windows=False, **options)  # type: ignore[arg-type]
    render_terminal(document, console)
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def test_terminal_strips_what_a_terminal_would_obey(hostile: Document):
    shown = _terminal(hostile, color_system=None)
    assert not [c for c in shown if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2028"]
    assert "[l](http://e.x)" in shown and "</script>" in shown  # rich's own markup is not read either


def test_terminal_says_findings_before_sections(calm: Document):
    shown = _terminal(calm, color_system=None)
    places = [
        shown.index(text) for text in ("◆ Error MASK003", "▲ Warning NORM002", "● Note DATA004", "Signal by task")
    ]
    assert places == sorted(places)
    assert "41 %, 95 % interval 39 % to 43 %" in shown


def _wide_table() -> Document:
    columns = [Column("group", "group")]
    for name in ("first", "second", "third"):
        bounds = (Column(f"{name}_low", "low", "percent"), Column(f"{name}_high", "high", "percent"))
        columns += [Column(name, f"{name} share", "percent"), *bounds]
    row = ("yes/no", 0.5, 0.4, 0.6, 0.25, 0.2, 0.3, 0.125, None, 0.2)
    table = Table("t", "Shares", tuple(columns), (row,))
    return Document("d", (), (), (Section("s", "S", "l", tables=(table,)),))


def test_interval_stands_beside_its_number_and_not_in_columns_of_its_own():
    document = _wide_table()
    markdown = render_markdown(document)
    assert "| group | first share | second share | third share |" in markdown
    assert r"| yes/no | 50.0 % \[40.0 %, 60.0 %\] | 25.0 % \[20.0 %, 30.0 %\] | 12.5 % |" in markdown
    assert "<bdi>50.0\u00a0%</bdi><small>[40.0\u00a0%, 60.0\u00a0%]</small>" in render_html(document)


def test_narrow_terminal_gives_up_intervals_first_and_then_columns_but_never_the_first():
    document = _wide_table()
    wide, middle, narrow = (_terminal(document, width=width, color_system=None) for width in (100, 45, 22))
    assert "[40.0 %, 60.0 %]" in wide
    assert "[40.0 %" not in middle and "third" in middle and "12.5 %" in middle
    assert "third" not in narrow and "yes/no" in narrow and "more columns" in " ".join(narrow.split())


def test_terminal_breaks_no_word_of_a_table():
    labels = (
        "trained with",
        "signal at twice the length",
        "effective examples",
        "signal of the top 1 %",
        "learned length",
    )
    columns = tuple(Column(f"c{i}", label, "number" if i else "text") for i, label in enumerate(labels))
    table = Table("t", "T", columns, (("cross_entropy, example mean", 1.0, 2.0, 3.0, 4.0),))
    document = Document("D", (), (), (Section("s", "S", "L", tables=(table,)),))
    for width in (60, 80):
        words = set(_terminal(document, width=width, color_system=None).split())
        assert {"cross_entropy,", "signal", "twice", "examples"} <= words
    assert "learned" in words  # nor is a column given up where all of them fit


@pytest.mark.parametrize("width", [40, 80, 160])
def test_terminal_keeps_to_the_width(calm: Document, width: int):
    from rich.cells import cell_len

    assert max(cell_len(line) for line in _terminal(calm, width=width, color_system=None).splitlines()) <= width


def test_terminal_honours_no_color(calm: Document):
    options = {"force_terminal": True, "color_system": "truecolor"}
    assert "\x1b[31m" in _terminal(calm, _environ={}, **options).replace("\x1b[1;31m", "\x1b[31m")
    assert "31m" not in _terminal(calm, _environ={"NO_COLOR": "1"}, **options)


def test_terminal_writes_in_an_encoding_that_lacks_the_data(hostile: Document):
    shown = _terminal(hostile, encoding="ascii", color_system=None)
    assert "!! Error MASK003" in shown and "?" in shown


def test_terminal_without_colour_brackets_the_trained_tokens(calm: Document):
    assert "> [Yes, it is.</s>" in _terminal(calm, color_system=None)


def test_terminal_shows_a_chart_as_numbers_where_a_section_has_no_table(calm: Document):
    section = replace(calm.sections[0], tables=(), strips=(), charts=calm.sections[0].charts[2:3])
    shown = _terminal(replace(calm, sections=(section,)), color_system=None)
    assert "Elasticity of signal on length" in shown and "1.17" in shown


def test_markdown_is_shown_and_not_obeyed(hostile: Document):
    text = render_markdown(hostile)
    assert "\x1b" not in text and "\u2028" not in text and "\u202e" not in text
    assert "<img" not in text.replace("\\<img", "").split("```")[0]
    assert "@someone" not in text and "](http" not in text.replace("\\](", "")


def test_markdown_keeps_every_row_of_a_table_in_its_columns():
    table = Table("t", "T", (Column("a", "A|B"), Column("b", "B", "percent")), (("x | y\nz", 0.5),))
    text = render_markdown(Document("d", (), (), (Section("s", "S", "l", tables=(table,)),)))
    assert "| A\\|B | B |\n| :--- | ---: |\n| x \\| y z | 50.0 % |\n" in text


def test_markdown_fence_is_longer_than_any_in_the_fix(calm: Document):
    finding = replace(calm.findings[1], fix="````\n# not a heading")
    assert "`````\n````\n# not a heading\n`````" in render_markdown(replace(calm, findings=(finding,)))


@pytest.mark.parametrize(
    "text",
    [
        "# head",
        "- item",
        "1. item",
        "= x",
        "+ x",
        "> quote",
        "a_b_c *d*",
        "![i](u)",
        "<b>",
        "-3",
        "50.0%",
        "---",
        "===",
    ],
)
def test_escape_leaves_no_markdown_at_work(text: str):
    tokens = pytest.importorskip("markdown_it").MarkdownIt("commonmark").parse(escape(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or []} <= {"text", "text_special"}
    assert "".join(child.content for child in tokens[1].children or []) == text


def test_json_reads_back_as_the_same_document(calm: Document):
    again = from_json(to_json(calm))
    assert to_json(again) == to_json(calm)
    assert again.findings == calm.findings and again.sections[0].charts == calm.sections[0].charts


def test_json_writes_what_is_not_finite_as_null(calm: Document):
    text = to_json(calm)
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    row = json.loads(text)["sections"][0]["tables"][0]["rows"][1]
    assert row[-1] is None  # a NaN cell
    bound = replace(calm.findings[1], interval=Interval(math.nan, math.inf))
    assert math.isnan(from_json(to_json(replace(calm, findings=(bound,)))).findings[0].interval.low)  # type: ignore[union-attr]


def test_json_of_hostile_text_reads_back_exactly(hostile: Document):
    assert from_json(to_json(hostile)).sections[-2].title == hostile.sections[-2].title


def test_json_takes_numpy_numbers_and_refuses_anything_else(calm: Document):
    numpy = pytest.importorskip("numpy")
    series = Series("s", (1.0,), (numpy.float32(0.5),))
    chart = replace(calm.sections[0].charts[0], series=(series,))
    document = replace(calm, sections=(replace(calm.sections[0], charts=(chart,)),))
    assert json.loads(to_json(document))["sections"][0]["charts"][0]["series"][0]["y"] == [0.5]
    with pytest.raises(TypeError, match="to_json: .* got set"):
        to_json(replace(calm, headlines={"a"}))  # type: ignore[arg-type]


def _check(value: object, rule: dict, definitions: dict, where: str = "") -> None:
    """The few JSON Schema words the generated schema uses."""
    if "$ref" in rule:
        return _check(value, definitions[rule["$ref"].rsplit("/", 1)[1]], definitions, where)
    if "enum" in rule:
        assert value in rule["enum"], where
    if "anyOf" in rule:
        results = []
        for choice in rule["anyOf"]:
            try:
                results.append(_check(value, choice, definitions, where) is None)
            except AssertionError:
                results.append(False)
        assert any(results), where
        return None
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "null": type(None)}
    kinds["number"] = (int, float)  # type: ignore[assignment]
    if "type" in rule:
        names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        assert any(isinstance(value, kinds[name]) for name in names), where
    if isinstance(value, dict):
        assert set(rule["required"]) <= set(value), where
        for name, inner in rule["properties"].items():
            _check(value[name], inner, definitions, f"{where}.{name}")
    if isinstance(value, list):
        inner_rules = rule.get("prefixItems") or [rule["items"]] * len(value)
        assert len(inner_rules) == len(value), where
        for item, inner in zip(value, inner_rules, strict=True):
            _check(item, inner, definitions, f"{where}[]")
    return None


@pytest.mark.parametrize("name", ["calm", "hostile"])
def test_json_keeps_its_schema(name: str, request: pytest.FixtureRequest):
    rules = schema()
    value = json.loads(to_json(request.getfixturevalue(name)))
    _check(value, rules, rules["$defs"])
    value["findings"][0]["severity"] = "fatal"
    with pytest.raises(AssertionError):
        _check(value, rules, rules["$defs"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version="2.0"), "schema version 2.0"),
        (lambda d: d.pop("title"), "report has no 'title'"),
        (lambda d: d.update(headlines="one"), "report.headlines is a str"),
        (lambda d: d["findings"][1].update(severity="fatal"), r"findings\[1\].severity"),
        (lambda d: d["sections"][0]["charts"][0]["series"][0].update(y=["a"]), r"series\[0\].y"),
    ],
)
def test_from_json_says_what_does_not_fit(calm: Document, change, message: str):
    value = json.loads(to_json(calm))
    change(value)
    with pytest.raises(DataError, match=message):
        from_json(json.dumps(value))


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_from_json_refuses_what_is_no_report(text: str):
    with pytest.raises(DataError, match="not JSON|a report is a JSON object"):
        from_json(text)


def test_from_json_passes_over_keys_of_a_later_minor_version(calm: Document):
    value = json.loads(to_json(calm)) | {"schema_version": "1.9", "mood": "calm"}
    assert from_json(json.dumps(value)).title == calm.title


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("share of examples", "50 % of examples"), ("tokens", "0.500 tokens"), ("ratio", "0.50×"), ("", "0.500")],
)
def test_number_of_a_finding_is_written_with_its_unit(unit: str, expected: str):
    assert finding_number(Finding("A1", "info", "s", "w", value=0.5, unit=unit)) == (expected, "")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, "percent", ""),
        (math.nan, "number", ""),
        (-math.inf, "nats", "-∞"),
        (True, "integer", "yes"),
        (0, "percent", "0.0 %"),
        (0.0004, "percent", "0.04 %"),
        (1, "percent", "100.0 %"),
        (1234567, "integer", "1,234,567"),
        (1234.5, "number", "1,234"),  # ties to even, as Python rounds
        (0.5, "number", "0.500"),
        (100.0, "number", "100"),
        (3e-9, "number", "3.00e-9"),
        (2.2e-16, "percent", "0.0 %"),
        (2.2e-14, "number", "0"),
        (1.5, "ratio", "1.50×"),
        ("a\x1b[31mb", "text", "ab"),
    ],
)
def test_format_cell_writes_numbers_as_people_read_them(value, kind: str, expected: str):
    assert format_cell(value, kind) == expected
