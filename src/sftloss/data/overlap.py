"""Held-out rows that are also trained on: their loss says what was memorized, not what was learned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sftloss.data.account import MOST_ORIGINS, MOSTLY
from sftloss.data.examples import Example
from sftloss.document import Finding
from sftloss.errors import DataError, mention
from sftloss.rules import Evidence, Rule, findings_of
from sftloss.words import percent


@dataclass(frozen=True)
class Overlap:
    """Held-out rows, how many of them are equal to a trained row, how many share a prompt, and the first places."""

    rows: int
    equal: int
    prompts: int
    places: tuple[str, ...]


def overlap(trained: Iterable[Example], held_out: Iterable[Example]) -> Overlap:
    """Compare held-out examples with trained ones, by their tokens and by the prompts of their last answers."""
    rows: set[bytes] = set()
    prompts: set[int] = set()
    for example in trained:
        rows.add(example.input_ids.numpy().tobytes())
        prompts.update(example.prompts[-1:])
    count, equal, shared = 0, 0, 0
    places: list[str] = []
    for example in held_out:
        count += 1
        is_equal = example.input_ids.numpy().tobytes() in rows
        is_shared = is_equal or not prompts.isdisjoint({*example.prompts[-1:]} - {0})
        equal, shared = equal + is_equal, shared + is_shared
        if is_shared and len(places) < MOST_ORIGINS:
            places.append(str(example.origin))
    return Overlap(count, equal, shared, tuple(places))


def _leak(seen: Overlap) -> Evidence | None:
    if not seen.prompts:
        return None
    share = seen.prompts / seen.rows
    sentence = (
        f"{seen.prompts:,} of {seen.rows:,} held-out rows ({percent(share)}) have a prompt that is trained on; "
        f"{seen.equal:,} of them are trained rows word for word."
    )
    severity = "error" if seen.prompts == seen.rows else "warning" if share > 0.01 or seen.prompts > MOSTLY else "info"
    return Evidence(sentence, share, None, "share", seen.places, severity)  # type: ignore[arg-type]


OVERLAP_RULES: tuple[Rule[Overlap], ...] = (
    Rule(
        "DATA113",
        "warning",
        "Held-out rows that are trained on",
        "Their loss measures what the model has memorized, so it falls where the model does not get better. Where "
        "it is all of them, this is an error and nothing is trained.",
        "hold out a share of the data by prompt: --eval-share; or remove the shared rows from --eval-data",
        _leak,
    ),
)


def overlap_findings(trained: Iterable[Example], held_out: Iterable[Example]) -> tuple[Finding, ...]:
    """The finding about held-out rows that are trained on, if there are any."""
    return tuple(findings_of(OVERLAP_RULES, overlap(trained, held_out)))


def refuse_leak(findings: Iterable[Finding]) -> None:
    """Stop before training where the findings name held-out rows that measure nothing but what is trained on.

    Raises:
        DataError: If all held-out rows are trained on, or have a prompt that is.
    """
    for finding in findings:
        if finding.id == "DATA113" and finding.severity == "error":
            problem = f"{finding.id}: {finding.sentence} {finding.why.removesuffix('.')}"
            cure = f"give other held-out rows, or hold out a share of the data by prompt: {mention('eval_share', 0.05)}"
            raise DataError(problem, cure=cure)
