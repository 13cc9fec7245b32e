"""The page of failure modes names tests that exist."""

from __future__ import annotations

import ast
import re

import pytest
from tests.paths import ROOT

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    """The page's rows of tables, without their heads."""
    lines = (ROOT / "docs" / "failure_modes.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith("| what goes wrong")]


def missing(text: str) -> list[str]:
    """Tests that a text names and no file has."""
    found = {}
    for name in {name for name, _ in NAMED.findall(text)}:
        path = ROOT / name
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        found[name] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return [f"{file}::{test}" for file, test in NAMED.findall(text) if test not in found[file]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip())
def test_every_failure_mode_names_tests_that_exist(row: str) -> None:
    assert NAMED.search(row), "the row names no test"
    assert missing(row) == []


def test_a_test_that_does_not_exist_is_missed() -> None:
    """The negative control."""
    assert missing("`tests/test_failure_modes.py::test_nothing`") == ["tests/test_failure_modes.py::test_nothing"]
    assert missing("`tests/test_nowhere.py::test_it`") == ["tests/test_nowhere.py::test_it"]
