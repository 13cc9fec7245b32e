"""What docs/multitask.md says of strategies and laws is there."""

from __future__ import annotations

import re

from tests.paths import ROOT

from sftloss.tasks import STRATEGIES
from sftloss.tasks.gramian import WEIGHTINGS

PAGE = (ROOT / "docs" / "multitask.md").read_text(encoding="utf-8")


def test_every_law_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| ([a-z])\. .*\| (.*) \|$", PAGE, re.MULTILINE)
    assert [law for law, _ in rows] == list("abcdefghijkl")
    for law, told in rows:
        named = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", told)
        assert named, f"law {law} names no test"
        for path, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test


def test_every_strategy_stands_in_the_table() -> None:
    table = PAGE[PAGE.index("| name | weight before scaling") : PAGE.index("### One small forward pass more")]
    assert not [name for name in (*STRATEGIES, *WEIGHTINGS) if f"`{name}`" not in table]


def test_every_method_on_the_gramian_says_that_its_weights_are_of_this_step() -> None:
    assert not [name for name, weighting in WEIGHTINGS.items() if "Of this step" not in (weighting.__doc__ or "")]
