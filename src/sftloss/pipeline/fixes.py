"""Advice that can be run: the model and the data of this run in place of MODEL and DATA."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from sftloss.document import Cell, Document, Table

_PLACEHOLDERS = "--model MODEL --data DATA"
# what any verb needs to read the same rows with the same model; each verb has these flags
_SHARED = ("--model", "--data", "--tokenizer", "--columns", "--format", "--max-length", "--max-examples")
_ANALYZE_ONLY = ("--roles", "--level")
_ANALYZE = re.compile(r"(sftloss analyze .*)$", re.MULTILINE)


def filled_in(document: Document, command: str) -> Document:
    """The document with every command it advises made one that runs as it stands.

    Args:
        document: As the analysis made it; its commands name ``--model MODEL --data DATA``.
        command: The command line of this run, quoted for a shell. Where it is empty the run was asked for from
            Python: only the reader knows what its model and data are called on a command line.
    """
    given = _shared(command)
    if "--model" not in given or "--data" not in given:
        return document
    flags = _joined(given)
    asked = _flags(command)
    # an earlier report is never overwritten unasked, so the next one needs a folder of its own
    output = {"--output": asked.get("--output", "sftloss-report") + "-next"}
    rest = _joined({flag: asked[flag] for flag in _ANALYZE_ONLY if flag in asked} | output)

    def fill(text: str) -> str:
        if _PLACEHOLDERS not in text:
            return text
        return _ANALYZE.sub(lambda found: f"{found[1]} {rest}", text).replace(_PLACEHOLDERS, flags)

    findings = tuple(replace(found, fix=fill(found.fix)) for found in document.findings)
    sections = tuple(
        replace(section, tables=tuple(_filled(table, fill) for table in section.tables))
        for section in document.sections
    )
    return replace(document, findings=findings, sections=sections)


def _filled(table: Table, fill) -> Table:  # type: ignore[no-untyped-def]
    def cell(value: Cell) -> Cell:
        return fill(value) if isinstance(value, str) else value

    return replace(table, rows=tuple(tuple(map(cell, row)) for row in table.rows))


def _joined(flags: dict[str, str]) -> str:
    return shlex.join(word for pair in flags.items() for word in pair)


def _shared(command: str) -> dict[str, str]:
    given = _flags(command)
    return {flag: given[flag] for flag in _SHARED if flag in given}


def _flags(command: str) -> dict[str, str]:
    """Flag to value, of the flags that have one."""
    words = shlex.split(command)
    pairs = zip(words, words[1:], strict=False)
    return {flag: value for flag, value in pairs if flag.startswith("--") and not value.startswith("--")}
