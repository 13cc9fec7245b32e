"""What a comparison says to a claim: one paragraph from the verdicts of its document, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sftloss.document import Document
from sftloss.experiments.pages.words import listed

_DIFFERENT, _UNJUDGED = "different", "too few seeds"


@dataclass(frozen=True)
class Claim:
    """That every other arm changes a measure in one direction against the first.

    Attributes:
        says: The claim, as "The claim that ..." goes on.
        measure: How the measure's name begins.
        direction: The direction claimed.
    """

    says: str
    measure: str
    direction: Literal["higher", "lower"]


def answer(document: Document, claim: Claim) -> str:
    """Whether the intervals support the claim, contradict it or do neither; then all else that they show.

    The first arm is compared with each other one; where arms disagree, both are named.
    """
    rows = _rows(document)
    judged = [row for row in rows if row["verdict"] != _UNJUDGED]
    if not judged:
        return "The data is too little for any verdict: too few seeds."
    ours = [row for row in judged if row["measure"].startswith(claim.measure)]
    told = [f"The claim that {claim.says} is {_held(ours, claim)}."]
    told += [finding.sentence for finding in document.findings if finding.id == "CMP010"]
    shown = {row["measure"] for row in judged if row["verdict"] == _DIFFERENT}
    silent = tuple(dict.fromkeys(row["measure"] for row in judged if row["measure"] not in shown))
    if silent:
        told.append(f"No difference shown in {listed(silent)}.")
    return " ".join(told)


def _held(ours: Sequence[dict[str, Any]], claim: Claim) -> str:
    different = [row for row in ours if row["verdict"] == _DIFFERENT]
    for_it = tuple(row["arm"] for row in different if (row["difference"] > 0) == (claim.direction == "higher"))
    against = tuple(row["arm"] for row in different if row["arm"] not in for_it)
    if not different:
        return "neither supported nor contradicted: no difference shown"
    rest = tuple(row["arm"] for row in ours if row["verdict"] != _DIFFERENT)
    said = (("supported", for_it), ("contradicted", against))
    where = " and ".join(f"{word} for {listed(arms)}" for word, arms in said if arms)
    return where + (f"; no difference shown for {listed(rest)}" if rest else "")


def _rows(document: Document) -> list[dict[str, Any]]:
    """All comparisons, as the table of verdicts has them."""
    tables = [table for section in document.sections for table in section.tables if table.id == "comparisons"]
    return [
        dict(zip((column.key for column in table.columns), row, strict=True)) for table in tables for row in table.rows
    ]
