"""Whether a comparison supports a claim: one paragraph, made from the verdicts of its document and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sftloss.document import Document
from sftloss.words import listed

_DIFFERENT, _UNJUDGED = "different", "too few seeds"


@dataclass(frozen=True)
class Claim:
    """A claim that every other arm changes a measure in one direction against the first arm.

    Attributes:
        statement: The claim, to follow "The claim that".
        measure: Beginning of the measure's name.
        direction: The claimed direction.
    """

    statement: str
    measure: str
    direction: Literal["higher", "lower"]


def claim_answer(document: Document, claim: Claim) -> str:
    """Whether the intervals support the claim, contradict it or neither; then all other differences that they show.

    Where arms disagree, both sides are named.
    """
    judged = [row for row in _comparison_rows(document) if row["verdict"] != _UNJUDGED]
    if not judged:
        return "There are too few seeds for any verdict."
    about = [row for row in judged if row["measure"].startswith(claim.measure)]
    sentences = [f"The claim that {claim.statement} is {_support(about, claim)}."]
    sentences += [finding.sentence for finding in document.findings if finding.id == "CMP010"]
    different = {row["measure"] for row in judged if row["verdict"] == _DIFFERENT}
    equal = tuple(dict.fromkeys(row["measure"] for row in judged if row["measure"] not in different))
    if equal:
        sentences.append(f"No difference is shown in {listed(equal)}.")
    return " ".join(sentences)


def _support(rows: Sequence[dict[str, Any]], claim: Claim) -> str:
    different = [row for row in rows if row["verdict"] == _DIFFERENT]
    supporting = tuple(row["arm"] for row in different if (row["difference"] > 0) == (claim.direction == "higher"))
    contradicting = tuple(row["arm"] for row in different if row["arm"] not in supporting)
    if not different:
        return "neither supported nor contradicted: no difference is shown"
    rest = tuple(row["arm"] for row in rows if row["verdict"] != _DIFFERENT)
    sides = (("supported", supporting), ("contradicted", contradicting))
    where = " and ".join(f"{word} for {listed(arms)}" for word, arms in sides if arms)
    return where + (f"; no difference is shown for {listed(rest)}" if rest else "")


def _comparison_rows(document: Document) -> list[dict[str, Any]]:
    """The rows of the table of all comparisons."""
    tables = [table for section in document.sections for table in section.tables if table.id == "comparisons"]
    return [
        dict(zip((column.key for column in table.columns), row, strict=True)) for table in tables for row in table.rows
    ]
