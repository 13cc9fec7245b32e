"""What an objective needs to enter: a source, a law row, a gradient test and an entry in the docs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sftloss import objectives
from sftloss.objectives import OBJECTIVES, Description, cross_entropy, describe, objective
from sftloss.objectives._catalogue import ADDED, NEUTRAL
from sftloss.statistics import FIELDS
from tests.objectives.closed_forms import CLOSED_FORMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "objectives.md"
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def described(name: str) -> Description:
    return next(each for each in describe() if each.name == name)


@every_objective
def test_every_objective_enters_with_source_law_row_gradient_test_and_docs(name: str) -> None:
    source = described(name).source
    assert re.search(r"arXiv:\d{4}\.\d{5}|JMLR", source), "a source that can be looked up"
    laws = (ROOT / "tests" / "test_laws.py").read_text(encoding="utf-8")
    assert "**OBJECTIVES" in laws, "the laws run over the whole dict, so every objective has a row"
    assert name in NEUTRAL or name in ADDED or name == "dft", "the neutral law knows where it stands"
    assert name in CLOSED_FORMS, "a closed form its gradient is held to"
    assert len(re.findall(rf"^## `{name}`$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)) == 1, "a docs entry"


def test_docs_have_no_entry_for_an_objective_that_does_not_exist() -> None:
    entries = re.findall(r"^## `(\w+)`$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert entries == list(OBJECTIVES)


@every_objective
def test_docs_entry_says_gradient_help_harm_and_spelling(name: str) -> None:
    entry = DOCS.read_text(encoding="utf-8").partition(f"## `{name}`\n")[2].partition("\n## ")[0]
    for heading in ("**Loss**", "**Gradient**", "**Helps**", "**Harms**", "**Spelling**"):
        assert entry.count(heading) == 1, heading
    for spelled in re.findall(r"`([^`]+)`", entry.partition("**Spelling**")[2]):
        objective(spelled)


@every_objective
def test_docstring_has_every_section_and_names_the_statistics_it_reads(name: str) -> None:
    text = inspect.getdoc(OBJECTIVES[name]) or ""
    for section in ("Args", "Returns", "Gradient", "Example", "Source"):
        assert re.search(rf"^{section}:$", text, re.MULTILINE), section
    assert ".. math::" in text
    assert bool(describe_parameters(name)) == ("Raises:" in text)
    named = {field for field in FIELDS if f"``{field}``" in text}
    body = inspect.getsource(OBJECTIVES[name]).rpartition('"""')[2]
    assert named == {field for field in FIELDS if f"stats.{field}" in body}


def describe_parameters(name: str) -> list[str]:
    return [each.name for each in described(name).hyper_parameters]


@every_objective
def test_description_is_complete_and_plain_text(name: str) -> None:
    entry = described(name)
    for text in (entry.summary, entry.formula, entry.gradient, entry.source):
        assert text and "\n" not in text
        assert not re.search(r"[\\`{}]", text), "markup a terminal cannot show"
    assert entry.summary.endswith(".")
    signature = inspect.signature(OBJECTIVES[name]).parameters
    assert [(each.name, each.default) for each in entry.hyper_parameters] == [
        (each.name, each.default) for each in list(signature.values())[1:]
    ]
    assert all(each.meaning and "`" not in each.meaning for each in entry.hyper_parameters)
    assert all(each.kind is each.KEYWORD_ONLY for each in list(signature.values())[1:])


@every_objective
def test_description_expressions_can_be_read(name: str) -> None:
    entry = described(name)
    assert name in str(objective(entry.usage))
    assert entry.neutral is None or objective(entry.neutral)
    if name in ADDED:
        assert str(objective(entry.usage)) == f"cross_entropy + {ADDED[name]} * {name}"


def test_every_objective_is_a_public_name_under_its_own_name() -> None:
    for name, function in OBJECTIVES.items():
        assert function.__name__ == name
        assert getattr(objectives, name) is function
    assert set(OBJECTIVES) <= set(objectives.__all__)
    assert cross_entropy is next(iter(OBJECTIVES.values())), "the default is listed first"
