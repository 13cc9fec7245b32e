"""Whatever bytes a file holds, reading it ends with records or with an error of ours."""

from __future__ import annotations

import gzip
import io
import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_tokenizer

from sftloss.data import Examples, read_records
from sftloss.errors import SftlossError

pytestmark = pytest.mark.slow
BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_COLUMNS = """messages conversations prompt response text input_ids labels attention_mask weight tools system history
chosen rejected label chat_template_kwargs instruction output role content from value tool_calls function_call
reasoning_content name arguments type roles weights"""
NAMES = st.sampled_from(_COLUMNS.split())
ROW = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
ROWS = st.lists(st.dictionaries(NAMES, ROW, max_size=4), min_size=1, max_size=4)
GOOD = [
    {"prompt": "q", "response": "a"},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
]
TOKENIZER = tiny_tokenizer([])


def files() -> dict[str, bytes]:
    lines = "".join(json.dumps(row) + "\n" for row in GOOD).encode()
    table = io.BytesIO()
    pl.DataFrame({"prompt": ["q", "r"], "response": ["a", "b"]}).write_parquet(table)
    return {
        "a.jsonl": lines,
        "a.json": json.dumps(GOOD, indent=1).encode(),
        "b.json": json.dumps({"data": GOOD}).encode(),
        "a.jsonl.gz": gzip.compress(lines),
        "a.csv": b'prompt,response\n"q",a\nr,b\n',
        "a.tsv": b"prompt\tresponse\nq\ta\n",
        "a.csv.gz": gzip.compress(b"prompt,response\nq,a\n"),
        "a.parquet": table.getvalue(),
    }


def read(source, **how) -> None:
    """Read and encode everything; an error of ours is an answer, any other exception is not."""
    try:
        list(Examples(read_records(source, on_error="count", **how), TOKENIZER))
    except SftlossError as error:
        assert str(error)


@pytest.mark.parametrize("name", files())
@BOUNDED
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4)), min_size=1, max_size=6),
    cut=st.integers(0, 60),
)
def test_a_damaged_file_is_named_or_read(tmp_path, name, edits, cut):
    data = bytearray(files()[name])
    for at, piece in edits:
        at %= len(data) + 1
        data[at : at + max(1, len(piece))] = piece
    (tmp_path / name).write_bytes(bytes(data[: max(0, len(data) - cut % 8)]))
    read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz"])
@BOUNDED
@given(data=st.binary(max_size=200))
def test_any_bytes_are_named_or_read(tmp_path, suffix, data):
    (tmp_path / f"a.{suffix}").write_bytes(data)
    read(tmp_path / f"a.{suffix}")


@BOUNDED
@given(rows=ROWS)
def test_any_rows_are_named_or_read(rows):
    read(rows)


@pytest.mark.parametrize(
    "format", ["messages", "sharegpt", "alpaca", "preference", "text", "tokens", "prompt/response"]
)
@BOUNDED
@given(rows=ROWS)
def test_any_rows_are_named_or_read_in_a_format_that_is_named(format, rows):
    read(rows, format=format)


@BOUNDED
@given(path=st.text("ab[0].", max_size=10), value=VALUE)
def test_any_path_of_a_column_is_named_or_read(path, value):
    read([{"a": value, "prompt": "q"}], columns={"response": path} if path else None)
