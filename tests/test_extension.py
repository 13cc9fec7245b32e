"""One file adds an objective, and one a strategy: the command line, the pages and the laws take them from there."""

from __future__ import annotations

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
from sftloss.tasks.strategies.pieces import check_range, log, smoothed_loss, zeros
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


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one file more in each of the two rooms."""
    source = tmp_path_factory.mktemp("copy") / "src"
    shutil.copytree(ROOT / "src" / "sftloss", source / "sftloss", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "sftloss" / "objectives" / "tempered.py").write_text(OBJECTIVE)
    (source / "sftloss" / "tasks" / "strategies" / "rooted.py").write_text(STRATEGY)
    return source


def python(path: Path, *arguments: str, cwd: Path = ROOT) -> str:
    """What a new interpreter prints, with `path` before every other place of packages."""
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


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
