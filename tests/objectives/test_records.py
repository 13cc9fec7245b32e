"""What an objective needs to enter: a source, a record, a row of closed forms, and a documentation page up to date."""

from __future__ import annotations

import inspect
import json
import re

import pytest
import torch
from tests.objectives.closed_forms import CLOSED_FORMS
from tests.objectives.rows import ENTRIES
from tests.paths import ROOT

from sftloss import objectives, weights
from sftloss.docstrings import plain_formula, replace_region
from sftloss.objectives import OBJECTIVES, cross_entropy, description, objective
from sftloss.objectives.description import COSTS
from sftloss.objectives.page import gate_picture, objective_regions, with_count
from sftloss.registry import with_imports
from sftloss.statistics import FIELDS, TokenStats, from_logits
from sftloss.statistics.tokens import FURTHER
from sftloss.weights import WEIGHT_PAPERS, preset

DOCS = ROOT / "docs" / "objectives.md"
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


@every_objective
def test_every_objective_enters_with_a_source_a_record_and_a_closed_form(name: str) -> None:
    source = ENTRIES[name].text()["source"]
    assert re.search(
        r"arXiv:\d{4}\.\d{5}|JMLR|IJCAI \d{4}|AAAI \d{4}|openreview.net/forum|github.com/\S+/pull/\d+", source
    ), source
    assert ENTRIES[name].record.examples, "an example in its record"
    assert name in CLOSED_FORMS, "the test row: a closed form that its gradient is compared with"


def test_closed_forms_have_no_row_for_an_objective_that_does_not_exist() -> None:
    assert set(CLOSED_FORMS) == set(OBJECTIVES)


def test_the_committed_page_is_what_the_docstrings_give() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for name, text in objective_regions().items():
        assert replace_region(page, name, text) == page, "run: python -m sftloss.objectives"


def test_the_committed_picture_is_that_of_the_gates() -> None:
    committed = (DOCS.parent / "gates.svg").read_text(encoding="utf-8")
    assert committed == gate_picture(), "run: python -m sftloss.objectives"


def test_the_readme_counts_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(OBJECTIVES)} objectives" in readme and with_count(readme) == readme, (
        "run: python -m sftloss.objectives"
    )
    assert len(OBJECTIVES) >= 45


def test_stated_cost_is_that_of_the_committed_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "objectives_cpu.json").read_text(encoding="utf-8"))
    measured = {name: row["over cross-entropy"][0] for name, row in record["objectives"].items()}
    assert len(measured.keys() & ENTRIES.keys()) >= 50
    for name in measured.keys() & ENTRIES.keys():
        more = max((COSTS.get(field, 0) for field in ENTRIES[name].reads), default=0)
        assert abs(measured[name] - 1 - more / 100) <= 0.04, f"{name}: {measured[name]}, stated {more} %"
        is_ordered = any(field.startswith(("top_", "rank")) for field in ENTRIES[name].reads)
        assert round(measured[name], 2) <= (1.3 if is_ordered else 1.1), name


def test_the_imports_for_type_checkers_are_complete() -> None:
    source = (ROOT / "src" / "sftloss" / "objectives" / "__init__.py").read_text(encoding="utf-8")
    assert with_imports(source, OBJECTIVES) == source, "run: python -m sftloss.objectives"
    assert all(f" import {name} as {name}\n" in source for name in OBJECTIVES)


@every_objective
def test_docstring_has_every_section_and_names_the_statistics_it_reads(name: str) -> None:
    text = inspect.getdoc(OBJECTIVES[name]) or ""
    for section in ("Args", "Returns", "Gradient", "Helps", "Harms", "Example", "Source"):
        assert re.search(rf"^{section}:$", text, re.MULTILINE), section
    assert ".. math::" in text
    can_fail = ENTRIES[name].hyper_parameters or ENTRIES[name].record.extras
    assert bool(can_fail) == ("Raises:" in text)
    fields = (*FIELDS, *FURTHER)
    named = {field for field in fields if f"``{field}``" in text}
    body = inspect.getsource(OBJECTIVES[name]).rpartition('"""')[2]
    assert named == {field for field in fields if f"stats.{field}" in body}


@every_objective
def test_description_is_complete_and_plain_text(name: str) -> None:
    entry = ENTRIES[name]
    for text in entry.text().values():
        assert text and "\n" not in text
        assert not re.search(r"[\\`{}]", text), "markup a terminal cannot show"
    assert entry.text()["summary"].endswith(".")
    signature = inspect.signature(OBJECTIVES[name]).parameters
    assert entry.hyper_parameters == {each.name: each.default for each in list(signature.values())[1:]}
    assert set(entry.hyper_parameters) <= set(entry.text())
    assert all(each.kind is each.KEYWORD_ONLY for each in list(signature.values())[1:])


@every_objective
def test_examples_and_the_neutral_setting_can_be_read(name: str) -> None:
    entry = ENTRIES[name]
    assert all(name in str(objective(example)) for example in entry.record.examples)
    assert not entry.record.is_term or all(example.startswith("cross_entropy + ") for example in entry.record.examples)
    assert entry.neutral is None or objective(entry.neutral)


@every_objective
def test_record_names_the_batch_tensors_that_are_read(name: str) -> None:
    body = inspect.getsource(OBJECTIVES[name]).rpartition('"""')[2]
    extras = ENTRIES[name].record.extras
    read = re.findall(rf'read_extra\(stats, "{name}", "(\w+)"\)', body)
    computed = ENTRIES[name].record.sequence_values
    assert not computed or "reference_logprob" in extras
    assert {*extras, *computed} - ({"reference_logprob"} if computed else set()) == {
        *read,
        *(["candidate_ids"] if "stats.candidate_logprob" in body else []),
    }
    assert all(f"``{extra}``" in (inspect.getdoc(OBJECTIVES[name]) or "") for extra in extras)


@every_objective
def test_record_says_whether_something_is_held_fixed(name: str) -> None:
    body = inspect.getsource(OBJECTIVES[name]).rpartition('"""')[2]
    assert ENTRIES[name].record.is_detached == (".detach()" in body)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rho_1(share=0.6)", "rho_1(share=...) is not computed: a share of a batch depends on how the step is cut"),
        ("talr(batch=True)", "the median of a batch depends on how the step is cut"),
        ("gem(h='log_sigmoid')", "write kind='linear' or kind='log_sigmoid'."),
    ],
)
def test_what_a_paper_takes_of_a_batch_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        objective(text)


PUBLISHED = {
    "2 * gce(q=1)": lambda p: 2 * (1 - p),
    "gce(q=1)": lambda p: -p,
    "10 * gce(q=10)": lambda p: -(p**10),
    "gce(q=0.5)": lambda p: (1 - p**0.5) / 0.5,
    "profit(low=0.5, q=0.7)": lambda p: torch.where(p >= 0.5, (1 - p**0.7) / 0.7, (1 - 0.5**0.7) / 0.7),
    "profit(low=0.5, q=1)": lambda p: torch.where(p >= 0.5, 1 - p, 0.0),
    "profit(low=0, high=0.5, q=1)": lambda p: torch.where(p <= 0.5, 1 - p, 0.0),
    "profit(low=0.5)": lambda p: torch.where(p >= 0.5, -p.log(), 0.0),
}
"""The formula of each paper in the target's probability, by what to write."""


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_loss_has_the_gradient_of_its_paper(text: str) -> None:
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    targets = torch.arange(20) % 4
    (expected,) = torch.autograd.grad(PUBLISHED[text](logits.softmax(dim=1)[range(20), targets]).sum(), logits)
    (actual,) = torch.autograd.grad(objective(text)(from_logits(logits, targets)).sum(), logits)
    torch.testing.assert_close(actual, expected)


def test_page_recommends_what_exists() -> None:
    table = DOCS.read_text(encoding="utf-8").partition("## Which one to try")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == 7 and all(objective(text) for row in rows for text in re.findall("`(.+?)`", row))


def test_every_published_loss_is_listed_with_a_paper_and_its_formula_is_tested() -> None:
    listed = [loss for entry in ENTRIES.values() for loss in entry.record.published]
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", loss.paper) and objective(loss.expression) for loss in listed)
    of_more_than_p = {"0.95 * cross_entropy - 0.05 * entropy_bonus", "dft + 0.05 * k3_anchor", "dft + 0.05 * kl_anchor"}
    assert {loss.expression for loss in listed} - of_more_than_p == set(PUBLISHED)


def test_every_objective_is_a_public_name_under_its_own_name() -> None:
    for name, function in OBJECTIVES.items():
        assert function.__name__ == name
        assert getattr(objectives, name) is function
    assert set(OBJECTIVES) <= set(objectives.__all__)
    assert cross_entropy is next(iter(OBJECTIVES.values())), "the default is listed first"


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


def test_own_objective_that_fails_on_made_up_tokens_is_described_without_a_gate() -> None:
    def picky(stats: TokenStats) -> torch.Tensor:
        raise RuntimeError("only in my trainer")

    assert description("picky", picky).gate is None
    assert description("own", lambda stats: -stats.target_logprob.exp()).gate is not None


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"\frac{1 - p_i^q}{q}, \qquad p_i = 2", "(1 - p_i^q) / q, where p_i = 2"),
        (r"\log \frac{1 - \alpha}{p_i} + \frac{a}{b}", "log ((1 - α) / p_i) + a / b"),
        (r"\frac{1}{T} \sum_j x_{ij}", "(1 / T) Σ_j x_ij"),
        (r"a, \qquad b = \frac{\gamma}{p_{i}}, \qquad c", "a, where b = γ / p_i, c"),
    ],
)
def test_a_fraction_keeps_its_parts_together(latex: str, plain: str) -> None:
    assert plain_formula(latex) == plain


def test_papers_of_weights_are_found_too() -> None:
    presets = {text.removeprefix("--preset ") for _, text in WEIGHT_PAPERS.values() if text.startswith("--preset ")}
    assert len(presets) == 3 and all(preset(text).loss for text in presets)
    functions = [text.partition("(")[0].rpartition(".")[2] for _, text in WEIGHT_PAPERS.values() if "(" in text]
    assert all(hasattr(weights, name) for name in functions)
