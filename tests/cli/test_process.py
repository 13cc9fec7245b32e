"""The installed command as its own process: streams, signals, pipes, a missing extra."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.tools import MODEL, ROWS, write_rows

COMMAND = [sys.executable, "-c", "from sftloss.cli import main; main()"]


def sftloss(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, **options)


def test_the_demo_is_a_report_that_opens_with_its_answer_and_headlines(tmp_path):
    done = sftloss("demo", "-o", tmp_path / "demo", env={**os.environ, "COLUMNS": "400"})
    assert done.returncode == 0, done.stderr
    headlines = json.loads((tmp_path / "demo" / "report.json").read_text())["headlines"]
    assert len(headlines) == 3
    assert done.stdout.startswith("Trained now: cross_entropy, token mean.")
    places = [done.stdout.find(headline) for headline in headlines]
    assert -1 not in places and places == sorted(places)
    assert done.stderr == f"wrote {tmp_path / 'demo' / 'report.html'}\n"


@pytest.mark.slow
def test_no_bar_and_no_colour_where_streams_are_files(tmp_path):
    data = write_rows(tmp_path / "d.jsonl")
    done = sftloss("analyze", "-m", MODEL, "-d", data, "-o", tmp_path / "out", "--json", "-")
    assert json.loads(done.stdout)
    assert done.stderr == f"wrote {tmp_path / 'out'}/report.html\n"
    assert "\x1b" not in done.stdout


@pytest.mark.slow
def test_an_interrupted_run_is_130_and_resumes_to_the_same_report(tmp_path):
    """Ctrl-C between two parts of the table; what was written is used, the rest is computed."""
    data = write_rows(tmp_path / "d.jsonl", ROWS * 40)
    words = ["analyze", "-m", MODEL, "-d", str(data), "--tokens-per-batch", "40", "-o"]
    process = subprocess.Popen([*COMMAND, *words, str(tmp_path / "a")], stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(tmp_path / "a" / "table" / "manifest.json", process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and stderr.startswith("sftloss: interrupted") and stderr.count("\n") == 1
    assert not (tmp_path / "a" / "report.html").exists()
    assert sftloss(*words, tmp_path / "a", "--resume").returncode == 0
    assert sftloss(*words, tmp_path / "b").returncode == 0
    resumed, whole = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    assert resumed["findings"] == whole["findings"] and resumed["sections"] == whole["sections"]


@pytest.mark.parametrize(("is_ignored", "code"), [(True, 0), pytest.param(False, 130, marks=pytest.mark.slow)])
def test_ctrl_c_ends_a_run_unless_the_parent_ignores_it(tmp_path, is_ignored, code):
    """Under nohup or in the background of a script SIGINT is ignored, and a child respects that."""
    data, handler = write_rows(tmp_path / "d.jsonl", ROWS * 5), signal.SIG_IGN if is_ignored else signal.SIG_DFL
    words = ["analyze", "-m", MODEL, "-d", str(data), "--tokens-per-batch", "40", "-q", "-o", str(tmp_path / "a")]
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
    )  # fmt: skip
    try:
        _wait_for(tmp_path / "a" / "table" / "manifest.json", process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, stderr


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, "the run ended before it could be interrupted"
        time.sleep(0.01)


@pytest.mark.parametrize("reader", ["head -n 1", pytest.param("true", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "verb",
    [
        "losses",
        *(
            pytest.param(verb, marks=pytest.mark.slow)
            for verb in ("inspect --json -", "inspect", "lengths", "analyze --help")
        ),
    ],
)
def test_a_reader_that_leaves_early_is_no_error(tmp_path, verb, reader):
    """Exit code 1 would mean a finding."""
    data = write_rows(tmp_path / "d.jsonl", ROWS * 20)
    words = {"inspect": f"-m {MODEL} -d {data}", "lengths": f"-d {data}"}.get(verb.split()[0], "")
    shell = f"{sys.executable} -c 'from sftloss.cli import main; main()' {verb} {words} | {reader}"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_a_reader_that_leaves_early_changes_no_verdict(tmp_path):
    data = write_rows(tmp_path / "d.jsonl", [*ROWS, {"nothing": 1}])
    words = f"inspect -m {MODEL} -d {data} --fail-on warning"
    shell = f"{sys.executable} -c 'from sftloss.cli import main; main()' {words} | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""


def test_a_missing_extra_is_one_sentence():
    code = "import sys; sys.modules['typer'] = None\nfrom sftloss.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "sftloss[cli]"' in done.stderr and done.stderr.count("\n") == 1


def test_the_command_is_installed():
    command = shutil.which("sftloss", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("sftloss is on the path, but not installed into this environment")
    assert subprocess.run([command, "--version"], capture_output=True, text=True).stdout.startswith("sftloss ")


def test_python_m_runs_the_command_line():
    done = subprocess.run([sys.executable, "-m", "sftloss", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("sftloss ")
