"""What a report looks for: one record per finding, from which findings, their docs table and tests are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sftloss.document import Finding, Interval, Severity

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Evidence:
    """What a check has seen.

    Attributes:
        sentence: What was seen, with its number, complete in itself.
        value, interval, unit: The number itself; None where the finding is a yes or no.
        rows: Origins of example rows ("file:line"), at most ten.
        severity, why, cure: Where they differ from the rule's.
    """

    sentence: str
    value: float | None = None
    interval: Interval | None = None
    unit: str = ""
    rows: tuple[str, ...] = ()
    severity: Severity | None = None
    why: str = ""
    cure: str = ""


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """One kind of finding.

    Attributes:
        id: Stable and suppressible, e.g. ``NORM002``.
        severity: Its usual severity.
        title: What is looked for, a phrase for the docs table.
        why: Why it matters, one or two sentences.
        cure: What to do: a command line or a setting.
        check: From what is audited to evidence, or None where there is nothing to report.
    """

    id: str
    severity: Severity
    title: str
    why: str
    cure: str
    check: Callable[[Subject], Evidence | None]

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
            evidence.cure or self.cure,
            evidence.value,
            evidence.interval,
            evidence.unit,
            evidence.rows,
        )


def findings_of(rules: Iterable[Rule[Subject]], subject: Subject) -> tuple[Finding, ...]:
    """What the rules find, in their order."""
    found = (rule.finding(subject) for rule in rules)
    return tuple(finding for finding in found if finding is not None)
