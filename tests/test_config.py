"""Options from defaults, a YAML file and flags: what wins, and what every mistake says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftloss.config import option, resolve, to_yaml
from sftloss.errors import ConfigError


@dataclass(frozen=True)
class Example:
    model: str = option("", "A model.", required=True)
    loss: tuple[str, ...] = option(("cross_entropy",), "Losses.")
    normalization: tuple[str, ...] = option((), "How.", takes_numbers=True)
    columns: dict[str, str] = option({}, "Columns.")
    max_length: int | None = option(None, "Length.", minimum=2)
    rate: float = option(0.5, "Rate.")
    overwrite: bool = option(False, "Overwrite.")
    policy: str = option("per-token", "Policy.", choices=("per-token", "per-example"))


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_flags_win_over_the_file_and_the_file_over_defaults(written):
    path = written("model: from-file\nrate: 0.25\nloss: [dft]\n")
    options = resolve(Example, {"model": "from-flag", "loss": None}, config=path)
    assert (options.model, options.rate, options.loss, options.policy) == ("from-flag", 0.25, ("dft",), "per-token")


@pytest.mark.parametrize("key", ["max-length", "max_length"])
def test_a_key_is_the_flag_with_dashes_or_underscores(written, key):
    assert resolve(Example, {}, config=written(f"model: m\n{key}: 7\n")).max_length == 7


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("rate: 1e-5", "rate", 1e-5),
        ("rate: 2", "rate", 2.0),
        ("rate: .5", "rate", 0.5),
        ("max-length: 010", "max_length", 10),
        ("model: no", "model", "no"),
        ("model: 12:30:00", "model", "12:30:00"),
        ("model: 2024-01-01", "model", "2024-01-01"),
        ("loss: dft", "loss", ("dft",)),
        ("normalization: [token-mean, 0.5]", "normalization", ("token-mean", "0.5")),
        ("columns: {prompt: q, response: a}", "columns", {"prompt": "q", "response": "a"}),
        ("columns: prompt=q,response=a", "columns", {"prompt": "q", "response": "a"}),
        ("overwrite: true", "overwrite", True),
        ("max-length:", "max_length", None),
    ],
)
def test_yaml_reads_as_its_author_meant(written, text, name, value):
    found = getattr(resolve(Example, {} if name == "model" else {"model": "m"}, config=written(text)), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("modle: m", r"c.yaml:1: unknown key 'modle'; did you mean 'model'\?"),
        ("model: m\nmax_lenght: 3", r"c.yaml:2: unknown key 'max_lenght'; did you mean 'max-length'\?"),
        ("model: m\nzzz: 3", "c.yaml:2: unknown key 'zzz'; known keys: model, loss"),
        ("model: m\nmodel: n", "c.yaml:2: key 'model' is given twice"),
        ("max-length: 3\nmax_length: 3", "c.yaml:2: key 'max-length' is given twice"),
        ("columns: {prompt: q, prompt: r}", "c.yaml:1: key 'prompt' is given twice"),
        ("max-length: many", "c.yaml:1: max_length: expected a whole number, got 'many'"),
        ("max-length: 2.5", "expected a whole number, got 2.5"),
        ("max-length: true", "expected a whole number, got True"),
        ("max-length: 1", "expected at least 2, got 1"),
        ("rate: .inf", "expected a number, got inf"),
        ("rate: 1e999", "expected a number, got inf"),
        ("overwrite: 1", "expected true or false, got 1"),
        ("overwrite: yes", "expected true or false, got 'yes'"),
        ("model: 5", "expected text, got 5; quote it"),
        ("model: [a]", "expected text, got a list"),
        ("model:", "c.yaml:1: model: empty"),
        ("loss: [1]", "expected text, got 1"),
        ("policy: per-tokne", r"none of per-token, per-example; did you mean 'per-token'\?"),
        ("columns: [q]", "expected names and their values"),
        ("columns: q", "expected name=value pairs"),
        ("- a\n- b", "expected 'key: value' lines, found a sequence"),
        ("a: [1, 2", r"c.yaml:\d+: "),
        ("model: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("model: !!timestamp x", "c.yaml: a value does not fit its !!tag"),
        ("overwrite: !!bool maybe", "does not fit its !!tag"),
        ("a: " + "[" * 50 + "]" * 50, "aliases or 20 levels"),
        ("a: &a [x]\nb: [" + ", ".join(["*a"] * 30) + "]", "more than 20 aliases"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(written, text, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        resolve(Example, {"model": None}, config=written(text))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_billion_laughs_ends_at_once(written):
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    with pytest.raises(ConfigError, match="aliases"):
        resolve(Example, {}, config=written(f"a0: &a0 [x]\n{levels}\n"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, "model: missing"),
        ({"model": ""}, "model: missing"),
        ({"model": "m", "max_length": 0}, "max_length: expected at least 2, got 0"),
        ({"model": "m", "rate": math.nan}, "rate: expected a number, got nan"),
        ({"model": "m", "columns": "prompt"}, "columns: expected name=value pairs"),
        ({"model": "m", "columns": "prompt=a,prompt=b"}, "columns: a name is given twice"),
    ],
)
def test_a_mistake_in_a_flag_is_named(flags, expected):
    with pytest.raises(ConfigError, match=expected):
        resolve(Example, flags)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00m", b"x" * 1_000_001])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        resolve(Example, {}, config=path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        resolve(Example, {}, config=tmp_path / "none.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: m\n")
    assert resolve(Example, {}, config=path).model == "m"


# text that some YAML would read as something else
lookalikes = st.sampled_from(
    ["1e5", "010", "~", "no", "1_000", "12:30:00", "0x1F", ".inf", "<<", "- a", "#", "*a", "é\n"]
)
# a NUL is refused by name, see below
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
words = st.one_of(lookalikes, st.text(characters, min_size=1, max_size=20))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    model=words,
    loss=st.lists(words, max_size=3).map(tuple),
    columns=st.dictionaries(words, words, max_size=3),
    rate=st.floats(allow_nan=False, allow_infinity=False),
)
def test_printed_options_give_the_same_options_again(tmp_path, model, loss, columns, rate):
    options = Example(model, loss, columns=columns, rate=rate, max_length=None)
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(options), encoding="utf-8", newline="")
    assert resolve(Example, {}, config=path) == options


def test_a_nul_is_refused_by_file_line_and_key(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(Example("a\0b", ("cross_entropy",), columns={}, rate=1.0, max_length=None)))
    with pytest.raises(ConfigError, match=rf"{path}:1: model: .* has a NUL character"):
        resolve(Example, {}, config=path)
