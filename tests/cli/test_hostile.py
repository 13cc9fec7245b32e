"""No input ends in an internal error, and each kind of input ends with its own exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.hostile import KINDS, Case, page_region
from tests.cli.tools import run
from tests.paths import ROOT

CASES = [pytest.param(case, id=f"{i}-{case.name}") for i, kind in enumerate(KINDS) for case in kind.cases()]
_EACH = 12  # of these many cases one is tried in every run of the tests, all in `make test-all`


def check(case: Case, place: Path) -> None:
    """Run a case and compare its exit code; an error is one sentence on stderr, or `inspect`'s report on the rows."""
    result = run(*case.words(place))
    assert "internal error" not in result.stderr and "Traceback" not in result.output, result.output
    assert result.exit_code in case.codes, result.output
    is_report = result.stdout.startswith("None of the ")
    if result.exit_code != 0 and case.codes != (0, 3) and not is_report:
        assert "sftloss: " in result.stderr or "Error" in result.stderr, result.output


@pytest.mark.parametrize("case", CASES[::_EACH])
def test_some_inputs_that_go_wrong_end_with_a_sentence(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_input_that_goes_wrong_ends_with_a_sentence(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(case, tmp_path)


def test_at_least_300_inputs_are_tried() -> None:
    assert len(CASES) >= 300


def test_the_page_has_the_table_of_these_kinds() -> None:
    page = (ROOT / "docs" / "failure_modes.md").read_text(encoding="utf-8")
    assert page_region() in page, "run python -m tests.cli.hostile"
