"""One file adds an objective, a strategy, a format or a finding: commands, pages and laws take it from there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.paths import ROOT

OBJECTIVE = '''
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("tempered(power=0.5)", "tempered(power=1)"), neutral="tempered(power=0)"))
def tempered(stats: TokenStats, *, power: float = 0.5) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times a power of the probability, held fixed.

    .. math:: \\ell_i = -\\operatorname{sg}(p_i)^a \\log p_i

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        power: The exponent a, ``>= 0``.

    Gradient:
        Cross-entropy's times :math:`p^a`.

    Helps:
        This test.

    Harms:
        Nobody.

    Source:
        Own.
    """
    return -(power * stats.target_logprob.detach()).exp() * stats.target_logprob
'''

STRATEGY = '''
from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import log, smoothed_loss, zeros
from sftloss.tasks.strategies.strategy import Strategy, recorded


@recorded()
def rooted(*, decay: float = 0.9) -> Strategy:
    r"""More weight to a larger loss, by its root: :math:`w \\propto \\sqrt{L}`.

    Args:
        decay: Of the exponential mean of the loss.

    Returns:
        The strategy. Lagged.

    Source:
        Own.
    """
    check_range("rooted", decay=(decay, "in [0, 1)"))
    return Strategy("rooted", zeros("loss"), smoothed_loss(decay), lambda state: log(state["loss"]) / 2)
'''

FORMAT = """
from sftloss.data.examples import Message
from sftloss.data.formats.format import Format


def _convert(row):
    return [Message("user", row["ask"]), Message("assistant", row["tell"])]


ASK_TELL = Format(
    "ask/tell", lambda row: "ask" in row and "tell" in row, _convert, "`ask` and `tell`",
    {"ask": "2 + 2?", "tell": "4"}, order=25,
)
"""

FINDING = """

def _tiny(inspection):
    return Evidence(f"The data has {inspection.account.rows} rows.") if inspection.account.rows < 10 else None


INSPECT_RULES = (*INSPECT_RULES, Rule("DATA999", "warning", "Tiny data", "Little can be learned.", "add rows", _tiny))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one objective, one strategy, one format and one finding more."""
    source = tmp_path_factory.mktemp("copy") / "src"
    shutil.copytree(ROOT / "src" / "sftloss", source / "sftloss", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "sftloss" / "objectives" / "tempered.py").write_text(OBJECTIVE)
    (source / "sftloss" / "tasks" / "strategies" / "rooted.py").write_text(STRATEGY)
    (source / "sftloss" / "data" / "formats" / "ask_tell.py").write_text(FORMAT)
    with (source / "sftloss" / "analysis" / "mask" / "rules.py").open("a") as rules:
        rules.write(FINDING)
    return source


def python(path: Path, *arguments: str, cwd: Path = ROOT, status: int = 0) -> str:
    """What a new interpreter prints, with `path` before every other place of packages."""
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == status, (done.stdout + done.stderr)[-3000:]
    return done.stderr if status else done.stdout


def test_the_command_line_and_the_pages_have_the_new_objective_and_strategy(source: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for page in ("objectives.md", "multitask.md"):
        shutil.copy(ROOT / "docs" / page, tmp_path / "docs" / page)
    command = "from sftloss.cli import main; main()"
    assert re.search(r"^tempered\(power=0.5\) +Cross-entropy times", python(source, "-c", command, "losses"), re.M)
    assert "gradient: Cross-entropy's times p^a." in python(source, "-c", command, "losses", "tempered")
    for room in ("objectives", "tasks"):
        python(source, "-m", f"sftloss.{room}", cwd=tmp_path)
    assert "| `tempered(power=0.5)` | 0.1 |" in (tmp_path / "docs" / "objectives.md").read_text()
    assert "## `tempered`" in (tmp_path / "docs" / "objectives.md").read_text()
    assert "| `rooted(decay=0.9)` | losses | More weight" in (tmp_path / "docs" / "multitask.md").read_text()
    for room, name in (("objectives", "tempered"), ("tasks/strategies", "rooted")):
        assert f" import {name} as {name}\n" in (source / "sftloss" / room / "__init__.py").read_text()
    output = python(
        source,
        "-c",
        "from sftloss.objectives import tempered; import sftloss; print(sftloss.objective('2 * tempered'))",
    )
    assert output == "2 * tempered\n"


def test_the_command_line_and_the_pages_have_the_new_format_and_finding(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "docs").mkdir()
    for page in ("inspect.md", "findings.md"):
        shutil.copy(ROOT / "docs" / page, tmp_path / "docs" / page)
    (tmp_path / "rows.jsonl").write_text('{"ask": "2 + 2?", "tell": "4"}\n')
    command = "from sftloss.cli import main; main()"
    words = ("inspect", "--model", "demo", "--data", str(tmp_path / "rows.jsonl"), "--json", "-")
    report = json.loads(python(source, "-c", command, *words))
    assert report["headlines"][0].startswith("1 of 1 rows can be trained on")
    assert [one["sentence"] for one in report["findings"] if one["id"] == "DATA999"] == ["The data has 1 rows."]
    refused = python(source, "-c", command, *words[:5], "--format", "nonsense", status=2)
    assert ", ask/tell, " in refused
    for room in ("data.formats", "findings"):
        python(source, "-m", f"sftloss.{room}", cwd=tmp_path)
    assert '| `ask/tell` | `ask` and `tell` | `{"ask": "2 + 2?", "tell": "4"}` |' in _page(tmp_path, "inspect.md")
    row = "| DATA999 | warning | Tiny data | Little can be learned. | add rows | inspect |"
    assert row in _page(tmp_path, "findings.md")


def _page(folder: Path, name: str) -> str:
    return (folder / "docs" / name).read_text(encoding="utf-8")


def test_the_laws_run_over_the_new_format_and_finding(source: Path) -> None:
    files = ("tests/test_findings.py", "tests/data/test_formats_registry.py")
    output = python(source, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "DATA999 or ask/tell", *files)
    assert int(re.search(r"(\d+) passed", output)[1]) == 2


def test_the_laws_run_over_the_new_objective_and_strategy(source: Path) -> None:
    files = ("tests/test_laws.py", "tests/objectives/test_values.py", "tests/tasks/test_strategy_laws.py")
    # its gradient is by intention not the derivative of its value
    asked = "(tempered or rooted) and not gradcheck"
    output = python(source, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", asked, *files)
    assert int(re.search(r"(\d+) passed", output)[1]) > 40


def test_a_file_in_the_working_directory_gives_a_loss_and_a_strategy(tmp_path: Path) -> None:
    """As a console script runs: the working directory is not on the path of modules."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    (tmp_path / "own_module.py").write_text(OBJECTIVE + STRATEGY)
    command = "import sys; sys.path[:] = [p for p in sys.path if p]; from sftloss.cli import main; main()"
    words = ["train", "--model", "demo", "--data", "demo", "--device", "cpu", "--dry-run"]
    words += ["--loss", "cross_entropy + 0.1 * own_module:tempered(power=1)", "--tasks", "own_module:rooted(decay=0.5)"]
    output = python(ROOT / "src", "-c", command, *words, cwd=tmp_path)
    assert "cross_entropy + 0.1 * own_module:tempered(power=1)" in output and "own_module:rooted(decay=0.5)" in output
