"""Every id is one rule with its words in one place, and docs/findings.md lists it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.paths import ROOT

from sftloss import findings
from sftloss.docstrings import replace_region
from sftloss.rules import Evidence, Rule, findings_of

PAGE = ROOT / "docs" / "findings.md"
RULES = findings.every_rule()


def test_the_committed_page_is_what_the_rules_give():
    page = PAGE.read_text(encoding="utf-8")
    for name, text in findings.page_regions().items():
        assert replace_region(page, name, text) == page, "run: python -m sftloss.findings"


def test_the_page_has_one_row_an_id():
    rows = re.findall(r"^\| ([A-Z]+\d{3}) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert rows == sorted(set(rows)) == [rule.id for rule in RULES]


def test_two_rules_of_one_id_with_other_words_are_refused(monkeypatch):
    other = replace(RULES[0], title="Something else")
    monkeypatch.setattr(findings, "SOURCES", {**findings.SOURCES, "analyze": (other,)})
    with pytest.raises(ValueError, match=f"{other.id} is defined twice"):
        findings.every_rule()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_is_looked_for_why_it_matters_and_what_to_do(rule):
    assert re.fullmatch(r"[A-Z]+\d{3}", rule.id)
    assert rule.title and not rule.title.endswith(".") and rule.why.endswith(".")
    assert rule.cure or rule.severity == "info"


def test_a_rule_makes_a_finding_only_where_its_check_has_evidence():
    rule = Rule("A001", "warning", "Large numbers", "They overflow.", "take smaller ones", _large)
    assert findings_of([rule], 3) == ()
    (finding,) = findings_of([rule], 30)
    assert (finding.id, finding.severity, finding.fix) == ("A001", "warning", "take smaller ones")
    (finding,) = findings_of([rule], 300)
    assert (finding.severity, finding.fix) == ("error", "")


def _large(value):
    if value < 10:
        return None
    return Evidence(f"{value} is large.", severity="error" if value > 100 else None, cure="" if value > 100 else None)


def test_ids_in_the_pages_are_ids_of_rules():
    """An id in a page that no rule has sends its reader nowhere."""
    known = {rule.id for rule in RULES}
    for path in (ROOT / "docs").rglob("*.md"):
        named = set(re.findall(r"\b(?:MASK|DATA|NORM|SIG|NUM|CMP)\d{3}\b", path.read_text(encoding="utf-8")))
        assert named - {"NORM006"} <= known, path.name
