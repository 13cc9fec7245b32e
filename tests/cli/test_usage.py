"""What is wrong with a command line is one sentence with the nearest name, and exit code 2."""

from __future__ import annotations

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sftloss.cli.app import app

SENTENCES = {
    ("analyze", "--modl", "x"): "--modl: sftloss analyze has no such option; did you mean --model?",
    ("analyze", "--zzzz"): "--zzzz: sftloss analyze has no such option; sftloss analyze --help lists what it takes.",
    ("analyse",): "analyse: sftloss has no such command; did you mean analyze?",
    ("study", "lenth"): "lenth: sftloss study has no such command; did you mean length?",
    ("--nope",): "--nope: sftloss has no such option; sftloss --help lists what it takes.",
    ("inspect", "--model"): "--model: a value is missing after it.",
    ("inspect", "--quiet=3"): "--quiet: it takes no value; remove what follows =.",
    ("losses", "focal", "b"): "b: not expected by sftloss losses; sftloss losses --help lists what it takes.",
    ("train", "--max-steps", "ten"): "--max-steps: expected a whole number, got 'ten'.",
    ("train", "--max-steps", "1.5"): "--max-steps: expected a whole number, got 1.5.",
    ("train", "--learning-rate", "nan"): "--learning-rate: expected a number, got nan.",
    ("analyze", "--policy", "per-exampel"): "--policy: 'per-exampel' is none of ",
}


@pytest.mark.parametrize("words", SENTENCES, ids=" ".join)
def test_a_wrong_command_line_is_one_sentence(words: tuple[str, ...]) -> None:
    result: Result = CliRunner().invoke(app, list(words), prog_name="sftloss")
    assert result.exit_code == 2 and not result.stdout
    assert result.stderr.startswith(f"sftloss: {SENTENCES[words]}") and result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("words", [[], ["study"]])
def test_without_a_verb_the_help_is_shown(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "Commands:" in result.stdout + result.stderr
