"""Every rule of every command, and the page that lists them: ``python -m sftloss.findings`` writes docs/findings.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sftloss.analysis.lengths.rules import LENGTHS_RULES
from sftloss.analysis.mask.rules import INSPECT_RULES
from sftloss.analysis.signal.rules import SIGNAL_RULES
from sftloss.analysis.signal.rules.gradient import GRADIENT_RULES
from sftloss.data.account import ROW_RULES
from sftloss.data.overlap import OVERLAP_RULES
from sftloss.docstrings import write_regions
from sftloss.experiments.verdicts.findings import COMPARE_RULES
from sftloss.rules import Rule

SOURCES: Mapping[str, tuple[Rule[Any], ...]] = {
    "rows": ROW_RULES,
    "inspect": INSPECT_RULES,
    "lengths": LENGTHS_RULES,
    "analyze": (*SIGNAL_RULES, *GRADIENT_RULES),
    "compare": (*COMPARE_RULES, *OVERLAP_RULES),
    "train": OVERLAP_RULES,
}
"""The rules by what they judge: `rows` are read by every command with a report, the others are commands."""


def every_rule() -> tuple[Rule[Any], ...]:
    """One rule for each id, in the order of ids.

    Raises:
        ValueError: If two rules of one id differ in more than their check.
    """
    rules: dict[str, Rule[Any]] = {}
    for rule in (rule for source in SOURCES.values() for rule in source):
        known = rules.setdefault(rule.id, rule)
        if known.on(rule.check) != rule:
            raise ValueError(f"{rule.id} is defined twice, with different words; use Rule.on for another check.")
    return tuple(rules[id] for id in sorted(rules))


def commands_of(id: str) -> tuple[str, ...]:
    """The commands that may report a finding."""
    commands = tuple(source for source in SOURCES if source != "rows")
    readers = tuple(name for name in commands if name != "train")  # it prints an account of its rows
    return readers if _has(SOURCES["rows"], id) else tuple(name for name in commands if _has(SOURCES[name], id))


def _has(rules: Iterable[Rule[Any]], id: str) -> bool:
    return any(rule.id == id for rule in rules)


def page_regions() -> dict[str, str]:
    """The generated table of the page."""
    head = ["| id | severity | finding | why it matters | what to do | in |", "|---|---|---|---|---|---|"]
    return {"findings": "\n".join([*head, *map(_row, every_rule())])}


def _row(rule: Rule[Any]) -> str:
    cells = (rule.id, rule.severity, rule.title, rule.why, str(rule.cure), ", ".join(commands_of(rule.id)))
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def write_page() -> None:
    """Rewrite the page; run it in the root of the repository."""
    write_regions(Path("docs/findings.md"), page_regions())


if __name__ == "__main__":
    write_page()
