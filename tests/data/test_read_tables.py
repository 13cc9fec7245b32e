"""Parquet, saved datasets and hub data sets give the rows that the same data gives as JSON lines."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftloss.data import read_records
from sftloss.data.read.tables import HubName
from sftloss.errors import ConfigError, DataError

pl = pytest.importorskip("polars")

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
ROWS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]},
    {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "b"},
        ],
        "task": "calls",
    },
    {"question": "x", "answer": "y", "language": "en"},
    {"text": "once upon a time", "weight": 2.0},
    {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
]


def content_of(records) -> list[tuple]:
    return [(r.messages, r.text, r.tokens, r.task, r.language, r.weight) for r in records]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.parquet"
    pl.DataFrame(ROWS, infer_schema_length=None).write_parquet(path)
    return path


def test_parquet_gives_what_json_lines_give(tmp_path, table):
    """A table fills the gaps of mixed rows with nulls; the records do not show it."""
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    records = read_records(table, on_error="raise")
    assert content_of(records) == content_of(read_records(lines, on_error="raise"))
    assert [str(record.origin) for record in records] == [f"{table} row {i}" for i in range(5)]
    assert records.account.formats == {"messages": 2, "question/answer": 1, "text": 1, "tokens": 1}


def test_parquet_nulls_inside_tool_arguments_are_absent(tmp_path):
    """Two calls with different arguments share one column of structs; neither gets the other's names."""

    def row(arguments):
        call = {"function": {"name": "f", "arguments": arguments}}
        return {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}

    pl.DataFrame([row({"a": 1}), row({"b": 2})], infer_schema_length=None).write_parquet(tmp_path / "rows.parquet")
    calls = [record.messages[0].tool_calls[0] for record in read_records(tmp_path / "rows.parquet")]
    assert [call["function"]["arguments"] for call in calls] == [{"a": 1}, {"b": 2}]


def test_parquet_is_read_slice_by_slice(tmp_path, monkeypatch):
    """Row numbers run on over the slices, across row groups of another size."""
    monkeypatch.setattr("sftloss.data.read.tables._SLICE", 7)
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"text": [f"row {i}" for i in range(23)]}).write_parquet(path, row_group_size=5)
    records = list(read_records(path))
    assert [(record.text, record.origin.row) for record in records] == [(f"row {i}", i) for i in range(23)]


def test_parquet_weight_that_is_nan_is_refused(tmp_path):
    """A float column holds NaN where JSON cannot."""
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"text": ["a", "b"], "weight": [float("nan"), 1.0]}).write_parquet(path)
    records = read_records(path)
    assert len(list(records)) == 1 and records.account.reasons.counts == {"bad-weight": 1}


def test_parquet_name_is_no_pattern(tmp_path):
    """`[` and `*` may be part of a file's name."""
    path = tmp_path / "rows[1].parquet"
    pl.DataFrame({"text": ["a"]}).write_parquet(path)
    assert len(list(read_records(path))) == 1


def test_parquet_without_rows_is_a_data_error(tmp_path):
    """With or without columns."""
    for name, frame in {"a": pl.DataFrame({"text": []}), "b": pl.DataFrame()}.items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match=rf"{name}\.parquet: the file has no rows"):
            list(read_records(tmp_path / f"{name}.parquet"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_parquet_is_a_data_error_with_the_path(tmp_path, table, data):
    """Cut off, overwritten or no parquet at all."""
    content = bytearray(table.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "overwritten", "random"]))
    if kind == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "overwritten":
        at = data.draw(st.integers(0, len(content) - 4))
        content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    else:
        content = bytearray(data.draw(st.binary(max_size=40)))
    path = tmp_path / "damaged.parquet"
    path.write_bytes(content)
    try:
        list(read_records(path, on_error="skip"))
    except DataError as error:
        assert str(path) in str(error)


def test_panic_of_polars_is_a_data_error_and_an_interrupt_is_not(table, monkeypatch):
    """polars panics on some damage with a class that is no Exception; Ctrl-C is none either, and must get through."""

    class PanicException(BaseException):
        pass

    for raised, seen in ((PanicException("index out of bounds"), DataError), (KeyboardInterrupt(), KeyboardInterrupt)):

        def scan(*_, error=raised, **__):
            raise error

        monkeypatch.setattr(pl, "scan_parquet", scan)
        with pytest.raises(seen):
            list(read_records(table))


def test_missing_polars_says_what_to_install(table, monkeypatch):
    """polars comes with an extra."""
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(DataError, match=r"reading parquet needs polars: pip install 'sftloss\[cli\]'"):
        list(read_records(table))


def test_saved_dataset_is_read(tmp_path):
    """One split, several splits, and one split of several."""
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list([{"question": "x", "answer": "y"}] * 3)
    train.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": train, "test": train.select([0])}).save_to_disk(str(tmp_path / "two"))
    datasets.DatasetDict({"a": train, "b": train}).save_to_disk(str(tmp_path / "none"))
    assert len(list(read_records(tmp_path / "one"))) == 3
    assert len(list(read_records(tmp_path / "two"))) == 3
    assert len(list(read_records(tmp_path / "two" / "test"))) == 1
    with pytest.raises(DataError, match="no train split; name one of a, b"):
        list(read_records(tmp_path / "none"))


def test_damaged_saved_dataset_is_a_data_error(tmp_path):
    """Whatever arrow or datasets raise."""
    pytest.importorskip("datasets")
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="the saved dataset cannot be loaded"):
        list(read_records(tmp_path))


def test_hub_name_is_streamed_without_remote_code(monkeypatch):
    """The options after the name arrive, and the code of a data set is never trusted."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name=None, *, split=None, revision=None, streaming=False, **options):
        asked.append((path, name, split, revision, streaming, options))
        rows = [{"question": "x", "answer": "y"}]
        return rows if split else {"train": rows, "test": rows * 5}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    records = read_records("openai/gsm8k,config=main")
    assert [str(record.origin) for record in records] == ["openai/gsm8k row 0"]
    assert len(list(read_records("openai/gsm8k,config=main,split=test,revision=abc"))) == 1
    assert asked == [
        ("openai/gsm8k", "main", None, None, True, {}),
        ("openai/gsm8k", "main", "test", "abc", True, {}),
    ]


def test_hub_failure_is_a_data_error(monkeypatch):
    """At loading and in the middle of the rows, in one line."""
    datasets = pytest.importorskip("datasets")

    def broken_rows():
        yield {"question": "x", "answer": "y"}
        raise ConnectionError("gone\nand a traceback")

    def refuse(*_, **__):
        raise ValueError("Unknown config")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        DataError, match=r"a/b: no such file or folder here, and .* cannot be loaded \(.*Unknown config.*\)"
    ):
        list(read_records("a/b"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken_rows())
    with pytest.raises(DataError, match=r"a/b: the hub data set broke off \(.*gone.*\)"):
        list(read_records("a/b"))


def test_missing_datasets_says_what_to_install(monkeypatch):
    """datasets is optional."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs the datasets package: pip install datasets"):
        list(read_records("owner/name"))


@pytest.mark.parametrize("text", ["a/b,splt=test", "a/b,split", "a/b,split=", "a/b,split=x,split=y", "a/b,"])
def test_hub_option_that_is_none_is_a_config_error(text):
    """With the options there are."""
    with pytest.raises(ConfigError, match="is not one of config=..., split=..., revision=..."):
        HubName.parse(text)


def test_a_dataset_at_hand_drops_the_nulls_that_arrow_filled_in():
    datasets = pytest.importorskip("datasets")
    calls = [[{"function": {"name": "f", "arguments": arguments}}] for arguments in ({"a": "1"}, {"b": 2})]
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": call}]}
        for call in calls
    ]
    records = read_records(datasets.Dataset.from_list(rows))
    arguments = [record.messages[1].tool_calls[0]["function"]["arguments"] for record in records]
    assert arguments == [{"a": "1"}, {"b": 2}]


def test_an_empty_cell_is_an_empty_answer_and_no_unknown_column(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,response,task\na,b,\nc,,x\n", encoding="utf-8")
    records = read_records(tmp_path / "rows.csv", columns={"task": "task"})
    (record,) = records
    assert record.task is None and records.account.refused == {"empty-answer": 1}
    assert not records.account.unseen_columns
