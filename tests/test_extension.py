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


ONE_AFTER_ANOTHER = """
import contextlib, io, json, os, runpy, sys

results = []
os.chdir(sys.argv[1])
for module, *arguments in json.load(sys.stdin):
    out, errors, sys.argv, status = io.StringIO(), io.StringIO(), [module, *arguments], 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            if module == "sftloss":
                __import__("sftloss.cli").cli.main()
            else:
                runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    results.append([status, out.getvalue(), errors.getvalue()])
print(json.dumps(results))
"""


def python(path: Path, *arguments: str, cwd: Path = ROOT, stdin: str | None = None) -> str:
    """What a new interpreter prints, with `path` before every other place of packages."""
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, input=stdin
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the generated pages, and a row in the new format."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "docs").mkdir()
    for page in ("objectives.md", "multitask.md", "inspect.md", "findings.md"):
        shutil.copy(ROOT / "docs" / page, folder / "docs" / page)
    shutil.copy(ROOT / "README.md", folder / "README.md")
    (folder / "rows.jsonl").write_text('{"ask": "2 + 2?", "tell": "4"}\n')
    return folder


@pytest.fixture(scope="module")
def outputs(source: Path, pages: Path) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command; one interpreter runs them all."""
    pytest.importorskip("transformers")
    inspect = ["sftloss", "inspect", "--model", "demo", "--data", "rows.jsonl"]
    commands = {
        "losses": ["sftloss", "losses"],
        "one loss": ["sftloss", "losses", "tempered"],
        "inspect": [*inspect, "--json", "-"],
        "refused": [*inspect, "--format", "nonsense"],
        **{room: [f"sftloss.{room}"] for room in ("objectives", "tasks", "data.formats", "findings")},
    }
    output = python(source, "-c", ONE_AFTER_ANOTHER, str(pages), stdin=json.dumps(list(commands.values())))
    return dict(zip(commands, json.loads(output), strict=True))


def test_the_command_line_and_the_pages_have_the_new_objective_and_strategy(source, pages, outputs) -> None:
    assert re.search(r"^tempered\(power=0.5\) +Cross-entropy times", outputs["losses"][1], re.M)
    assert "gradient: Cross-entropy's times p^a." in outputs["one loss"][1]
    assert "| `tempered(power=0.5)` | 0.1 |" in (pages / "docs" / "objectives.md").read_text()
    assert "## `tempered`" in (pages / "docs" / "objectives.md").read_text()
    before, after = (int(re.search(r"\b(\d+) objectives\b", (at / "README.md").read_text())[1]) for at in (ROOT, pages))
    assert after == before + 1
    assert "| `rooted(decay=0.9)` | losses | More weight" in (pages / "docs" / "multitask.md").read_text()
    for room, name in (("objectives", "tempered"), ("tasks/strategies", "rooted")):
        assert f" import {name} as {name}\n" in (source / "sftloss" / room / "__init__.py").read_text()
    output = python(
        source,
        "-c",
        "from sftloss.objectives import tempered; import sftloss; print(sftloss.objective('2 * tempered'))",
    )
    assert output == "2 * tempered\n"


def test_the_command_line_and_the_pages_have_the_new_format_and_finding(pages, outputs) -> None:
    report = json.loads(outputs["inspect"][1])
    assert report["headlines"][0].startswith("1 of 1 rows can be trained on")
    assert [one["sentence"] for one in report["findings"] if one["id"] == "DATA999"] == ["The data has 1 rows."]
    assert outputs["refused"][0] == 2 and ", ask/tell, " in outputs["refused"][2]
    assert '| `ask/tell` | `ask` and `tell` | `{"ask": "2 + 2?", "tell": "4"}` |' in _page(pages, "inspect.md")
    row = "| DATA999 | warning | Tiny data | Little can be learned. | add rows | inspect |"
    assert row in _page(pages, "findings.md")


def _page(folder: Path, name: str) -> str:
    return (folder / "docs" / name).read_text(encoding="utf-8")


def test_the_laws_run_over_all_that_is_new(source: Path) -> None:
    files = ["tests/test_findings.py", "tests/data/test_formats_registry.py", "tests/test_laws.py"]
    files += ["tests/objectives/test_values.py", "tests/tasks/test_strategy_laws.py"]
    # the gradient of the new objective is by intention not the derivative of its value
    chosen = "DATA999 or ask/tell or ((tempered or rooted) and not gradcheck)"
    output = python(source, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", chosen, *files)
    passed = re.findall(r"^PASSED (.*)", output, re.M)
    for name, count in {"DATA999": 1, "ask/tell": 1, "tempered": 20, "rooted": 5}.items():
        assert sum(name in line for line in passed) >= count, (name, len(passed))


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
