"""What an objective needs to enter: a source, a law row, a gradient test and an entry in the docs."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from tests.objectives.closed_forms import CLOSED_FORMS
from tests.paths import ROOT

from sftloss import objectives
from sftloss.objectives import OBJECTIVES, Description, cross_entropy, describe, objective
from sftloss.objectives.catalogue import ADDED, NEUTRAL
from sftloss.statistics import FIELDS, from_logits

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


def test_docs_table_of_gates_is_what_the_objectives_do() -> None:
    """The gate is the target logit's gradient over cross-entropy's, p - 1."""
    p = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    rows = re.findall(r"^\| `(.+?)` \|((?: [\d.]+ \|){5})", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == ["cross_entropy", "focal(gamma=2)", "poly_1(epsilon=1)", "dft"]
    for name, cells in rows:
        logits = torch.stack([p.logit(), torch.zeros(5)], dim=1).requires_grad_()
        loss = objective(name)(from_logits(logits, torch.zeros(5, dtype=torch.long)))
        gate = torch.autograd.grad(loss.sum(), logits)[0][:, 0] / (p - 1)
        for told, true in zip(cells.split("|"), gate.tolist(), strict=False):
            decimals = len(told.strip().partition(".")[2])
            assert float(told) == pytest.approx(true, abs=0.51 * 10**-decimals)  # rounded to the digits shown


def test_docs_tell_where_the_confidence_penalty_is_lowest() -> None:
    """One right token, 99 999 wrong ones that share the rest evenly."""
    p = torch.cat([torch.linspace(0.01, 0.99, 9801), 1 - torch.logspace(-2, -6, 2000)]).double()
    rest = (1 - p) / 99_999
    entropy = -(p * p.log() + 99_999 * rest * rest.log())
    told = {0.05: 0.9998, 0.1: 0.78, 0.2: 0.44, 1.0: 0.11}
    for coefficient, lowest in told.items():
        at = p[(-p.log() - coefficient * entropy).argmin()].item()
        digits = len(str(lowest)) - 2
        assert round(at, digits) == lowest
        assert str(lowest) in DOCS.read_text(encoding="utf-8")
