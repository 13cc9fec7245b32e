"""Errors hold what they are about; Python, the command line and YAML each spell options in their own way."""

from __future__ import annotations

import ast
import pickle
import re

import pytest
from tests.cli.tools import MODEL, run, write_rows
from tests.paths import ROOT

from sftloss.cli.exit import flags_of
from sftloss.cli.verbs.analyze import AnalyzeOptions
from sftloss.cli.verbs.compare import CompareOptions
from sftloss.cli.verbs.inspect import InspectFlags
from sftloss.cli.verbs.lengths import LengthsOptions
from sftloss.cli.verbs.reference import ReferenceOptions
from sftloss.cli.verbs.report import ReportOptions
from sftloss.cli.verbs.study import StudyOptions
from sftloss.cli.verbs.train import TrainOptions
from sftloss.config import options_of
from sftloss.errors import ConfigError, DataError, as_argument, as_flag, machine_error, mention, spelled

ERROR = ConfigError(
    "expected at least 2, got 1", option="max_length", cure=f"or leave {mention('packing')} out", where="x"
)
SCHEMAS = (
    AnalyzeOptions, CompareOptions, InspectFlags, LengthsOptions, ReferenceOptions, ReportOptions, StudyOptions,
    TrainOptions,
)  # fmt: skip
# arguments of Python functions that no verb has as an option
PYTHON_ONLY = {"learning_rates", "shard", "part_tokens", "limit", "role_weights"}


def test_python_reads_arguments_and_the_command_line_flags() -> None:
    assert str(ERROR) == "x: max_length: expected at least 2, got 1; or leave packing out."
    assert ERROR.message(as_flag) == "x: --max-length: expected at least 2, got 1; or leave --packing out."


@pytest.mark.parametrize(
    ("value", "argument", "flag"),
    [
        (None, "on_error", "--on-error"),
        ("skip", "on_error='skip'", "--on-error skip"),
        (8, "on_error=8", "--on-error 8"),
        ("prompt=q,response=a", "on_error=dict(prompt=q, response=a)", "--on-error prompt=q,response=a"),
        ("dwa(temperature=2)", "on_error='dwa(temperature=2)'", "--on-error dwa(temperature=2)"),
    ],
)
def test_a_mention_is_spelled_with_its_value(value: object, argument: str, flag: str) -> None:
    text = mention("on_error", value)
    assert (spelled(text, as_argument), spelled(text, as_flag)) == (argument, flag)


def test_a_verb_spells_its_own_options_and_no_others() -> None:
    spell = flags_of(list(options_of(AnalyzeOptions)))
    assert [spell(name, None) for name in ("max_length", "losses", "seeds")] == ["--max-length", "--loss", "seeds"]


def test_errors_are_pickled_whole() -> None:
    copy = pickle.loads(pickle.dumps(ERROR))
    assert str(copy) == str(ERROR) and vars(copy) == vars(ERROR)


def test_a_sentence_ends_with_one_period() -> None:
    assert str(DataError("no row")) == str(DataError("no row.")) == "no row."


def test_an_option_set_in_yaml_is_named_by_its_line(tmp_path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {MODEL}\ndata: {write_rows(tmp_path / 'rows.jsonl')}\nloss: focl\nmax-length: 1\n")
    assert f"{config}:4: max-length: expected at least 2, got 1." in run("analyze", "-c", config).stderr
    config.write_text(config.read_text().replace("max-length: 1\n", ""))
    result = run("analyze", "-c", config)
    assert result.stderr.startswith(f"sftloss: {config}:3: loss: 'focl' is no objective")


def test_every_option_that_an_error_names_exists() -> None:
    """A literal ``option=`` or `mention` in the source is an option of some verb, or an argument known by name."""
    known = {name for schema in SCHEMAS for one in options_of(schema) for name in (one.name, one.flag.argument)}
    for path in (ROOT / "src" / "sftloss").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                for name in _named(node):
                    assert name in known | PYTHON_ONLY, f"{path}:{node.lineno}: {name}"


def _named(call: ast.Call) -> list[str]:
    function = getattr(call.func, "id", "")
    values = [k.value for k in call.keywords if k.arg == "option"] if function.endswith("Error") else []
    values += call.args[:1] if function == "mention" else []
    return [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]


def test_no_error_of_a_user_begins_with_the_name_of_a_function() -> None:
    """The command line shows these sentences too. Hosts name this package in their own logs."""
    pattern = re.compile(
        r"(Config|Data|Model|Machine)Error\(\s*f?[\"'](?!sftloss: |register: |with_loss: )[A-Za-z]\w+: "
    )
    found = [
        f"{path}: {match.group()}"
        for path in (ROOT / "src" / "sftloss").rglob("*.py")
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_a_limit_of_the_size_of_files_is_the_machines():
    errors = (OSError(27, "File too large"), RuntimeError("I/O error: File too large (os error 27)"))
    for error in errors:
        assert "a file is larger than allowed; raise the limit (ulimit -f)" in str(machine_error(error))
