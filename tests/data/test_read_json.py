"""JSON lines and arrays as they really are: cut off, doubled, wrongly named, binary, huge."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftloss.data import Records, read_records
from sftloss.data.read import json_rows
from sftloss.errors import DataError

ROW = b'{"question": "2 + 2?", "answer": "4"}'


def read(path: Path, content: bytes, **arguments) -> tuple[int, Records]:
    path.write_bytes(content)
    records = read_records(path, on_error="skip", **arguments)
    return len(list(records)), records


def failure(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("plain.jsonl", ROW + b"\n" + ROW + b"\n", 2),
        ("no_end.jsonl", ROW + b"\n" + ROW, 2),
        ("windows.jsonl", b"\xef\xbb\xbf" + ROW + b"\r\n" + ROW + b"\r\n", 2),
        ("spaces.jsonl", b"\n  \n" + ROW + b"\n\t\n\n" + ROW + b"\n \n", 2),
        ("lines.ndjson", ROW + b"\n", 1),
        ("lines_named.json", ROW + b"\n" + ROW + b"\n", 2),
        ("bom_lines_named.json", b"\xef\xbb\xbf" + ROW + b"\n" + ROW, 2),
        ("array.json", b"[" + ROW + b"," + ROW + b"]", 2),
        ("pretty.json", b"\xef\xbb\xbf\n [\n  " + ROW + b" ,\n  " + ROW + b"\n]\n", 2),
        ("array_named.jsonl", b"[\n" + ROW + b",\n" + ROW + b"\n]", 2),
        ("array_in_a_line.jsonl", b"[" + ROW + b", " + ROW + b"]\n", 2),
        ("under_data.json", b'{"version": 1, "data": [' + ROW + b"]}", 1),
        ("under_train.json", b'{\n"train": [' + ROW + b"," + ROW + b"]\n}", 2),
        ("single.json", ROW, 1),
        ("single_pretty.json", json.dumps(json.loads(ROW), indent=2).encode(), 1),
        ("one_line.jsonl", ROW, 1),
    ],
)
def test_file_is_read_whatever_its_name_promises(tmp_path, name, content, rows):
    """JSON lines named .json and arrays named .jsonl are both common."""
    count, records = read(tmp_path / name, content)
    assert (count, records.account.unusable) == (rows, 0)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz", "rows.ndjson.gz"])
def test_compressed_lines_are_read(tmp_path, name):
    """Named so by the suffix before."""
    assert read(tmp_path / name, gzip.compress(ROW + b"\n" + ROW + b"\n"))[0] == 2


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        (b"nope", "not-json", "column 1: expecting value"),
        (b'{"question": "2 + 2?" "answer": "4"}', "not-json", "column 23: expecting ',' delimiter"),
        (ROW + ROW, "not-json", "column 38: more after the end of the row"),
        (b"\xef\xbb\xbf" + ROW, "not-json", "column 1"),
        (b"[" * 100_000, "not-json", "nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not-json", "too many digits"),
        (b'{"question": "\x01", "answer": "a"}', "not-json", "invalid control character"),
        (b'{"question": "\xff\xfe", "answer": "a"}', "not-utf8", "byte 15"),
        (b"3", "not-an-object", "the row is 3"),
        (b"[1, 2]", "not-an-object", "one object a row"),
        (b'"text"', "not-an-object", "'text'"),
        (b"null", "not-an-object", "None"),
        (b'{"question": "x", "question": "y", "answer": "z"}', "duplicate-key", "'question' appears twice"),
        (b'{"messages": [{"role": "user", "role": "x"}]}', "duplicate-key", "'role' appears twice"),
        (b'{"question": "x", "answer": "y", "weight": NaN}', "non-finite-number", "NaN is not JSON"),
        (b'{"question": "x", "answer": "y", "n": [-Infinity]}', "non-finite-number", "-Infinity"),
        (b'{"question": "x", "answer": "y", "weight": 1e999}', "non-finite-number", "1e999"),
        (b'{"question": "\\ud83d", "answer": "y"}', "lone-surrogate", "U+D83D"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_line_is_one_bad_row_with_line_and_reason(tmp_path, line, reason, words):
    """The rows before and after are read."""
    count, records = read(tmp_path / "rows.jsonl", ROW + b"\n" + line + b"\n" + ROW + b"\n")
    account = records.account
    assert count == 2 and account.reasons.counts == {reason: 1}
    assert str(account.reasons.origins[reason][0]) == f"{tmp_path / 'rows.jsonl'}:2"
    assert words in account.reasons.details[reason] and len(account.reasons.details[reason]) < 160


def test_whole_surrogate_pair_is_a_character(tmp_path):
    """Python's own writer escapes every emoji so."""
    assert read(tmp_path / "rows.jsonl", b'{"question": "\\ud83d\\ude00", "answer": "y"}')[0] == 1


def test_last_line_cut_anywhere_is_called_cut_off(tmp_path):
    """At every byte of the row: never 'not JSON', which sends people looking for a stray comma."""
    line = '{"question": "ü\\u00e9", "answer": "4", "a": [true, null, -1.5e-3]}'.encode()
    for length in range(1, len(line)):
        _, records = read(tmp_path / "rows.jsonl", ROW + b"\n" + line[:length])
        assert records.account.reasons.counts == {"truncated-row": 1}, line[:length]
    assert read(tmp_path / "rows.jsonl", ROW + b"\n" + line)[0] == 2


@pytest.mark.parametrize(
    "line", [b"nope", b"{nope}", b'{"a": abc', b'{"a": "\\x41"}', b'{"a": 1,, "b": 2}', ROW[:20] + b"\n"]
)
def test_bad_line_that_was_not_cut_is_not_called_cut_off(tmp_path, line):
    """Also at the end of the file, and a line that was ended was written so."""
    _, records = read(tmp_path / "rows.jsonl", ROW + b"\n" + line)
    assert records.account.reasons.counts == {"not-json": 1}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"], ids=repr)
def test_empty_file_is_a_data_error(tmp_path, name, content):
    """No rows is no training."""
    assert failure(tmp_path / name, content) == f"{tmp_path / name}: the file is empty."


@pytest.mark.parametrize("content", [b"[]", b"[ \n ]", b'{"data": []}', b'{"rows":\n []}'], ids=repr)
def test_empty_list_is_a_data_error(tmp_path, content):
    """Said of the list, not of the file."""
    assert "is empty" in failure(tmp_path / "rows.json", content)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"[\n" + ROW + b",\n  {oops}]", ":3:4: row 1: malformed JSON, expecting property name"),
        (b"[" + ROW + b"\n " + ROW + b"]", ":2:2: row 0: malformed JSON, expecting ',' or ']'"),
        (b"[" + ROW + b",\n", ":2:1: row 1: malformed JSON, expecting value"),
        (b"[" + ROW + b",\n]", ":2:1: row 1: malformed JSON, expecting value"),
        (b"[" + ROW, ":1:39: row 0: malformed JSON, expecting ',' or ']'"),
        (b"[" + ROW + b"]\n]", ":2:1: malformed JSON, more after the end of the array"),
        (b'{"data": [' + ROW + b"}", ":1:48: malformed JSON, expecting ',' delimiter"),
        (b'[{"question": "\xff"}]', ":1: not UTF-8"),
        (b"[" * 100_000, ":1:2: row 0: brackets nested too deep"),
        (b"[\n" + b"1" * 5000 + b"]", ":2:1: row 0: a number has too many digits"),
        (b"nope", ":1:1: malformed JSON, expecting value"),
    ],
)
def test_malformed_array_names_line_column_and_row(tmp_path, content, place):
    """There is no next line to go on from, so nothing after it is silently lost."""
    assert str(tmp_path / "rows.json") + place in failure(tmp_path / "rows.json", content)


def test_bad_element_of_an_array_is_one_bad_row_with_its_line(tmp_path):
    """As long as it is JSON, the array can be read past it; row and line are both said where they differ."""
    bad = [b"NaN", b'{"a": 1, "a": 2}', b"3", b'{"n": 1e999}']
    content = b"[\n" + ROW + b",\n\n" + b",\n".join(bad) + b",\n" + ROW + b"\n]"
    count, records = read(tmp_path / "rows.json", content)
    assert count == 2
    assert [
        str(origin).rsplit(":", 1)[1] for found in records.account.reasons.origins.values() for origin in found
    ] == [
        "4",
        "7",
        "5",
        "6",
    ]
    assert f"{tmp_path / 'rows.json'}:4 (row 1)" in records.account.summary()


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"], ids=repr)
def test_utf16_is_named(tmp_path, mark):
    """What a Windows shell writes by default."""
    assert "UTF-16; save it as UTF-8" in failure(tmp_path / "rows.jsonl", mark + "{}".encode("utf-16-le"))


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(ROW * 100)[:-20], gzip.compress(ROW)[:5]], ids=len)
def test_damaged_compression_is_a_data_error(tmp_path, content):
    """Rows behind the damage are lost, so it is not one bad row."""
    assert str(tmp_path / "rows.jsonl.gz") in failure(tmp_path / "rows.jsonl.gz", content)


def test_line_over_the_bound_is_one_bad_row_in_bounded_memory(tmp_path, monkeypatch):
    """50 MB without a line break, then a good row; the bound here is 1 MiB."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW + b"\n" + b'{"question": "' + b"x" * 50_000_000 + b'", "answer": "a"}\n' + ROW + b"\n")
    monkeypatch.setattr(json_rows, "LINE_BYTES", 2**20)
    records = read_records(path)
    tracemalloc.start()
    count = len(list(records))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2
    assert records.account.reasons.details["line-too-long"] == "the line is longer than 1 MiB; one row is one line"
    # the buffer and its joined copy, each of the bound; the 50 MB never exist
    assert peak < 4 * 2**20


def test_fifty_megabyte_line_is_one_clear_sentence_by_default(tmp_path):
    """The default bound is 32 MiB."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"x" * 50_000_000)
    with pytest.raises(
        DataError, match="line-too-long: 1 refused, first at .*rows.jsonl:1: the line is longer than 32"
    ):
        list(read_records(path))


def test_lines_are_streamed(tmp_path):
    """20 MB of rows in the memory of a few."""
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        for _ in range(2_000):
            file.write(b'{"question": "' + b"x" * 10_000 + b'", "answer": "a"}\n')
    tracemalloc.start()
    assert sum(1 for _ in read_records(path)) == 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a few rows of 10 kB, the read buffer, caches filled on first use
    assert peak < 2**20


BYTES = st.binary(max_size=60) | st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\xff", b"NaN", b"1e999", b"\\ud800", ROW]),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=BYTES)
def test_any_bytes_give_records_or_a_data_error_with_the_path(tmp_path, name, content):
    """Nothing a file can hold ends in a traceback."""
    path = tmp_path / name
    path.write_bytes(content)
    try:
        list(read_records(path))
    except DataError as error:
        assert str(path) in str(error)
        assert str(error).replace(str(path), "").isprintable()


def test_rows_of_an_array_on_one_line_are_told_apart_by_their_number(tmp_path):
    path = tmp_path / "one_line.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b"}]), encoding="utf-8")
    assert [str(record.origin) for record in read_records(path)] == [f"{path} row 0", f"{path} row 1"]
