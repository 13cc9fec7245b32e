"""What docs/multitask.md says of strategies and laws is there."""

from __future__ import annotations

import inspect
import re

import pytest
from tests.paths import ROOT

from sftloss.docstrings import docstring_of, replace_region
from sftloss.registry import with_imports
from sftloss.tasks import STRATEGIES
from sftloss.tasks.page import strategy_regions

PAGE = (ROOT / "docs" / "multitask.md").read_text(encoding="utf-8")


def test_every_law_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| ([a-z])\. .*\| (.*) \|$", PAGE, re.MULTILINE)
    assert [law for law, _ in rows] == list("abcdefghijkl")
    for law, told in rows:
        named = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", told)
        assert named, f"law {law} names no test"
        for path, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test


def test_the_committed_table_is_what_the_docstrings_give() -> None:
    for name, text in strategy_regions().items():
        assert replace_region(PAGE, name, text) == PAGE, "run: python -m sftloss.tasks"


def test_the_imports_for_type_checkers_are_complete() -> None:
    source = (ROOT / "src" / "sftloss" / "tasks" / "strategies" / "__init__.py").read_text(encoding="utf-8")
    assert with_imports(source, STRATEGIES) == source, "run: python -m sftloss.tasks"


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_source_and_documents_its_hyper_parameters(name: str) -> None:
    docstring = docstring_of(STRATEGIES[name])
    assert docstring.sections["Source"] and docstring.summary.endswith(".")
    own = set(inspect.signature(STRATEGIES[name]).parameters)
    assert set(docstring.arguments) == own - ({"smoothing"} if STRATEGIES[name]().method else set())
