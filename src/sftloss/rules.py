"""One record per kind of finding: findings, the page that lists them and its tests are made from these records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sftloss.document import Cure, Finding, Interval, Severity

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Evidence:
    """What a check has found.

    Attributes:
        sentence: What was seen, with its number, complete in itself.
        value, interval, unit: The number itself; None where the finding is a yes or no.
        rows: Origins of example rows ("file:line"), at most ten.
        severity, why, cure: Where they differ from the rule's; an empty cure means that nothing is to be done.
    """

    sentence: str
    value: float | None = None
    interval: Interval | None = None
    unit: str = ""
    rows: tuple[str, ...] = ()
    severity: Severity | None = None
    why: str = ""
    cure: Cure | None = None


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """One kind of finding.

    Attributes:
        id: Stable and suppressible, e.g. ``NORM002``.
        severity: Its usual severity.
        title: What is looked for, a phrase for the page of findings.
        why: Why it matters, one or two sentences.
        cure: What to do: words, a setting or a command.
        check: From what is audited to evidence, or None where there is nothing to report.
    """

    id: str
    severity: Severity
    title: str
    why: str
    cure: Cure
    check: Callable[[Subject], Evidence | None]

    def on(self, check: Callable[[Any], Evidence | None]) -> Rule[Any]:
        """The same rule for another subject, where one fault can be seen in several ways."""
        return replace(self, check=check)

    def finding(self, subject: Subject) -> Finding | None:
        """The finding, where the check has evidence."""
        evidence = self.check(subject)
        if evidence is None:
            return None
        return Finding(
            self.id,
            evidence.severity or self.severity,
            evidence.sentence,
            evidence.why or self.why,
            self.cure if evidence.cure is None else evidence.cure,
            evidence.value,
            evidence.interval,
            evidence.unit,
            evidence.rows,
        )


def rule_of(rules: Iterable[Rule[Any]], id: str) -> Rule[Any]:
    """The rule with this id."""
    return next(rule for rule in rules if rule.id == id)


def findings_of(rules: Iterable[Rule[Subject]], subject: Subject) -> tuple[Finding, ...]:
    """The findings of all rules, in the order of the rules."""
    findings = (rule.finding(subject) for rule in rules)
    return tuple(finding for finding in findings if finding is not None)
