"""Readers of text and files raise our own errors or none, whatever they read."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftloss.cli.verbs.train import TrainOptions
from sftloss.config import resolve, to_yaml
from sftloss.errors import ConfigError, DataError, SftlossError
from sftloss.files import SEAL, strangers, verify_folder
from sftloss.yaml import read_yaml

FEW = settings(max_examples=60, deadline=None)
MANY = settings(max_examples=1500, deadline=None)
YAML_TEXT = st.lists(
    st.sampled_from(
        [*"abc:-[]{}&*!?|>'\"%@`#,\n \t\x00\x07\x1b\x85", "key: ", "- ", "<<: ", "!!int ", "1e9", "~", "---\n"]
    )
).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def reads_yaml(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(raw)
        with suppress(ConfigError):
            read_yaml(path)
        with suppress(ConfigError):
            to_yaml(resolve(TrainOptions, {"model": "m", "data": "d"}, config=path))


def reads_manifest(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "weights").write_bytes(b"1")
        (path / SEAL).write_text(json.dumps(content))
        with suppress(DataError):
            verify_folder(path)
        assert strangers(path) in ([], ["weights"])


def reads_tasks(text: str) -> None:
    from sftloss.finetune import read_choice

    with suppress(SftlossError):
        read_choice(text)


TASKS = st.lists(
    st.sampled_from(["dwa", "static", "uncertainty", "(", ")", "=", ",", "1", "-2", "nan", "x", "low", " ", "\n", "."])
)
MANIFESTS = JSON | st.fixed_dictionaries(
    {
        "format": st.sampled_from([1, 2, None]),
        "files": JSON | st.dictionaries(st.sampled_from(["weights", "../x", ""]), JSON),
    }
)
READERS = [
    pytest.param(reads_yaml, YAML_TEXT.map(lambda text: text.encode("utf-8")) | st.binary(max_size=40), id="yaml"),
    pytest.param(reads_manifest, MANIFESTS, id="manifest"),
    pytest.param(reads_tasks, TASKS.map("".join), id="tasks"),
]


@pytest.mark.parametrize(("reader", "inputs"), READERS)
def test_a_reader_raises_our_errors_or_none(reader: Any, inputs: Any) -> None:
    FEW(given(inputs)(reader))()


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "inputs"), READERS)
def test_a_reader_raises_our_errors_or_none_of_many_inputs(reader: Any, inputs: Any) -> None:
    MANY(given(inputs)(reader))()
