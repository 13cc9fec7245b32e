"""Numbers on the pages that come from a committed result are those of the result.

A comment behind numbers names where they are: a file, the way to a record in it, and the names of its values:

    0.098 lower (0.021 to 0.189) <!-- studies/length.json > comparisons > answer length, example mean > -difference,
    -difference_high, -difference_low -->

The last numbers before the comment are these values, in this order, rounded as they are written. A number before a
percent sign is a share; ``-name`` is the value with its sign changed, ``name / 0`` a value in it, and
``=3`` the number 3. Semicolons part names that have commas. A step is a key or an
index. In the result of a study it is the id of a table, and then the first cells of one row, or their beginnings.
"""

from __future__ import annotations

import json
import re
from functools import cache, reduce
from typing import Any

import pytest
from tests.paths import ROOT

PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "README.zh.md", ROOT / "benchmarks" / "README.md"],
    key=lambda path: path.as_posix(),
)
SOURCE = re.compile(r"<!-- ((?:studies|benchmarks)/[\w./-]+\.json) > (.*?) -->", re.S)
NUMBER = re.compile(r"(?<![\w.^])([-−]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)( ?%)?(?![\w])")


@cache
def result(file: str) -> Any:
    return json.loads((ROOT / file).read_text(encoding="utf-8"))


def value_at(file: str, way: str) -> list[float]:
    """The values that a comment names."""
    *steps, names = [step.strip() for step in " ".join(way.split()).split(" > ")]
    value: Any = result(file)
    for step in steps:
        value = follow(value, step)
    return [
        float(name[1:]) if name.startswith("=") else sign * reduce(follow, name.split(" / "), value)
        for sign, name in map(signed, names.split("; " if "; " in names else ", "))
    ]


def signed(name: str) -> tuple[int, str]:
    return (-1, name[1:]) if name.startswith("-") else (1, name)


def follow(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return value[int(step)]
    if "sections" in value:  # the result of a study: a table by its id
        (table,) = [table for section in value["sections"] for table in section["tables"] if table["id"] == step]
        return {"table": table}
    if "table" in value:
        table, cells = value["table"], step.split(", ")
        rows = [row for row in table["rows"] if [str(cell) for cell in row[: len(cells)]] == cells]
        rows = rows or [
            row for row in table["rows"] if all(str(a).startswith(b) for a, b in zip(row, cells, strict=False))
        ]
        assert len(rows) == 1, f"{len(rows)} rows begin with {step}"
        return dict(zip((column["key"] for column in table["columns"]), rows[0], strict=True))
    return value[step]


def shown_before(text: str) -> list[tuple[str, bool]]:
    """Each number of a text as it is written, and whether it is in percent."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", " ", text, flags=re.S)
    return [(number.replace(",", "").replace("−", "-"), bool(percent)) for number, percent in NUMBER.findall(text)]


def is_rounded(shown: str, value: float) -> bool:
    """Whether a number as written is the value, rounded to its last digit."""
    digits, _, exponent = shown.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return abs(float(shown) - value) <= last * 0.5000001


def claims(page: str) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    """File, way and the numbers before it, of each comment of a page; they stand in one paragraph or row of a table."""
    found = []
    for match in SOURCE.finditer(page):
        before = re.split(r"\n\n|\n[-*|] ", page[: match.start()])[-1]
        found.append((match[1], match[2], shown_before(before.rpartition("-->")[2])))
    return found


CLAIMS = [
    pytest.param(*claim, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, claim in enumerate(claims(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize(("file", "way", "shown"), CLAIMS)
def test_a_number_is_that_of_its_result(file: str, way: str, shown: list[tuple[str, bool]]) -> None:
    values = value_at(file, way)
    assert len(shown) >= len(values), f"{len(values)} values of {file}, {len(shown)} numbers before the comment"
    for (number, is_share), value in zip(shown[-len(values) :], values, strict=True):
        assert is_rounded(number, value * (100 if is_share else 1)), f"the page has {number}, {file} has {value}"


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_figures_of_a_readme_are_those_of_the_record(name: str) -> None:
    """A README is read as it is written, so no comments stand in it: its headline and its one table are known here."""
    page = (ROOT / name).read_text(encoding="utf-8")
    found = result("benchmarks/results/engine_cpu_2048x768x50257.json")["contenders"]
    rows = re.findall(r"\| (\S+) \| (\S+) % \| (\S+) \|$", page, re.M)
    keys = ("wall time over plain: median, min, max", "memory_over_plain", "relative error of the gradients")
    for row, contender in zip(rows, ("plain", "torch", "torch chunks of 512", "trl", "one_pass"), strict=True):
        time, memory, error = (found[contender][key] for key in keys)
        assert all(map(is_rounded, row, (time[0], 100 * memory, error))), (contender, row)
    headline = next(line for line in page.splitlines() if line.startswith("**"))
    assert [number for number, _ in shown_before(headline)] == list(rows[-1][:2])


def test_a_changed_number_is_found() -> None:
    source = "<!-- studies/length.json > comparisons > answer length, example mean > -difference -->"
    for text, is_right in ((f"by 0.098 {source}", True), (f"by 0.097 {source}", False), (f"by 9.8 % {source}", True)):
        ((file, way, shown),) = claims(text)
        (value,) = value_at(file, way)
        assert is_rounded(shown[-1][0], value * (100 if shown[-1][1] else 1)) is is_right


def test_paragraphs_that_quote_a_study_name_its_result() -> None:
    """Where a paragraph links to the page of a study and has a number with a point, it has the source of a number.

    On the page on five real files every paragraph with a share has one.
    """
    for page in PAGES:
        for paragraph in re.split(r"\n\n|\n(?=[-*] )", page.read_text(encoding="utf-8")):
            is_linked = re.search(r"\]\(\.*/?(?:\.\./)*studies/[\w-]+\.md", paragraph)
            if (is_linked and re.search(r"\d\.\d", paragraph)) or (page.stem == "real_data" and "%" in paragraph):
                assert SOURCE.search(paragraph), f"{page.name}: {paragraph[:200]}"


@pytest.mark.parametrize("name", ["benchmarks/README.md", "docs/speed.md", "docs/real_data.md"])
def test_rows_of_measurements_name_their_result(name: str) -> None:
    """On pages of measurements a row of a table with a cell that begins with a number has the source of a number."""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and re.search(r" \| [*-]*\d", line):
            assert SOURCE.search(line), f"{name}: {line[:120]}"
