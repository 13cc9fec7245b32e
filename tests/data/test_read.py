"""Reading a source: policies, the report of refused rows, folders, rows at hand, the real files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from tests.paths import REAL_DATA as REAL

from sftloss.data import ROW_REASONS, Origin, read_records
from sftloss.errors import ConfigError, DataError

GOOD = {"question": "2 + 2?", "answer": "4"}
REAL_ROWS = {
    "alpaca_en_demo.json": (999, "alpaca"),
    "alpaca_zh_demo.json": (1000, "alpaca"),
    "glaive_toolcall_en_demo.json": (300, "sharegpt"),
    "v1_sft_demo.jsonl": (500, "messages"),
    "gsm8k_train.jsonl": (7473, "question/answer"),
}


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def mixed(path: Path, good: int, bad: int) -> Path:
    return write_lines(path, *[GOOD] * good, *[{"question": "x", "answer": ""}] * bad)


def test_report_goes_on_past_bad_rows_and_counts_them_by_reason(tmp_path):
    """A person wants the number, the place and the cure, once per kind."""
    path = write_lines(tmp_path / "rows.jsonl", GOOD, "nope", GOOD, {"foo": 1}, "nope", GOOD)
    records = read_records(path)
    assert [record.origin.line for record in records] == [1, 3, 6]
    account = records.account
    assert (account.rows, account.used, account.unusable) == (6, 3, 3)
    assert account.reasons.counts == {"not-json": 2, "unknown-shape": 1}
    assert account.reasons.origins["not-json"] == [Origin(str(path), 1, 2), Origin(str(path), 4, 5)]
    assert account.formats == {"question/answer": 3}
    summary = account.summary()
    assert f"DATA001 not-json: 2 refused, first at {path}:2: " in summary
    assert "DATA009 unknown-shape: 1 refused" in summary and "\n" not in summary


def test_report_keeps_the_first_ten_origins_only(tmp_path):
    """A million bad rows must not be a million origins."""
    records = read_records(mixed(tmp_path / "rows.jsonl", 30, 25))
    list(records)
    assert [origin.line for origin in records.account.reasons.origins["empty-answer"]] == list(range(31, 41))
    assert records.account.reasons.counts["empty-answer"] == 25


def test_summary_says_of_each_reason_how_many_where_and_what_to_do(tmp_path):
    """Two faults have two cures."""
    path = write_lines(tmp_path / "rows.jsonl", GOOD, {"x": 1}, {"prompt": "a", "response": ""})
    records = read_records(path, on_error="skip")
    list(records)
    said = records.account.summary()
    assert f"DATA009 unknown-shape: 1 refused, first at {path}:2: its columns are 'x'; say with columns=dict(" in said
    assert f"DATA015 empty-answer: 1 refused, first at {path}:3" in said and "give the turn weight 0" in said


def test_more_bad_rows_than_allowed_are_an_error_with_the_summary(tmp_path):
    """Half of the rows is the default; exactly half is still fine."""
    assert len(list(read_records(mixed(tmp_path / "half.jsonl", 2, 2)))) == 2
    with pytest.raises(DataError, match=r"60 % of the rows cannot be used, 50 % are allowed.*DATA015 empty-answer: 3"):
        list(read_records(mixed(tmp_path / "most.jsonl", 2, 3)))


def test_skip_goes_on_whatever_the_share_but_not_to_nothing(tmp_path):
    """No usable row is never a success."""
    assert len(list(read_records(mixed(tmp_path / "most.jsonl", 2, 9), on_error="skip"))) == 2
    with pytest.raises(DataError, match="No usable row.*0 of 3 rows usable"):
        list(read_records(mixed(tmp_path / "none.jsonl", 0, 3), on_error="skip"))


def test_raise_stops_at_the_first_bad_row_and_names_it(tmp_path):
    """path:line, then the reason."""
    path = mixed(tmp_path / "rows.jsonl", 2, 1)
    with pytest.raises(DataError) as caught:
        list(read_records(path, on_error="raise"))
    assert str(caught.value).startswith(f"{path}:3: DATA015 empty-answer: ")


def test_hopeless_file_is_left_early(tmp_path):
    """The first ten thousand rows tell that a file is of another kind."""
    records = read_records({"foo": str(i)} for i in range(20_000))
    with pytest.raises(DataError, match="0 of 10000 rows usable"):
        list(records)


def test_records_can_be_gone_through_again(tmp_path):
    """Each pass opens the file anew, and its report starts from nothing."""
    records = read_records(mixed(tmp_path / "rows.jsonl", 3, 1))
    assert list(records) == list(records)
    assert records.account.rows == 4


def test_report_of_an_unfinished_pass_says_so(tmp_path):
    """A half-read file is no proof that the rest is good."""
    records = read_records(mixed(tmp_path / "rows.jsonl", 3, 1))
    assert records.account.rows == 0
    next(iter(records))
    assert (records.account.rows, records.account.used) == (1, 1)


def test_limit_counts_records_and_reads_no_further(tmp_path):
    """The bad row between them is no record."""
    path = write_lines(tmp_path / "rows.jsonl", GOOD, "nope", GOOD, GOOD)
    records = read_records(path, limit=2)
    assert [record.origin.line for record in records] == [1, 3]
    assert records.account.rows == 3 and records.account.limited


def test_trailing_question_is_a_warning_and_the_row_is_kept(tmp_path):
    """Its earlier answers are as good as any."""
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    records = read_records(write_lines(tmp_path / "rows.jsonl", {"messages": turns}))
    assert len(list(records)) == 1
    assert records.account.reasons.counts == {"last-turn-not-assistant": 1}
    assert "DATA101 last-turn-not-assistant: 1 kept" in records.account.summary()


def test_named_column_that_no_row_has_is_reported(tmp_path):
    """A misspelled `task` would otherwise be a silent None in every row."""
    records = read_records(mixed(tmp_path / "rows.jsonl", 2, 0), columns={"task": "tsk", "prompt": "question"})
    list(records)
    assert records.account.unseen_columns == ("tsk",)
    assert "No row has the column 'tsk'" in records.account.summary()


def test_folder_is_read_in_the_order_of_names_with_the_stem_as_source(tmp_path):
    """Metadata of other tools, hidden files and sub-folders are no data."""
    write_lines(tmp_path / "b.jsonl", GOOD)
    write_lines(tmp_path / "a.jsonl", GOOD, {**GOOD, "source": "own"})
    (tmp_path / "c.json").write_text(json.dumps([GOOD]), encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text("{}", encoding="utf-8")
    (tmp_path / ".hidden.jsonl").write_text("x", encoding="utf-8")
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    records = list(read_records(tmp_path, on_error="raise"))
    assert [record.source for record in records] == ["a", "own", "b", "c"]
    assert [Path(record.origin.path).name for record in records] == ["a.jsonl", "a.jsonl", "b.jsonl", "c.json"]
    assert next(iter(read_records(tmp_path / "b.jsonl"))).source is None


def test_folder_without_data_says_what_it_looks_for(tmp_path):
    """Also that it does not look into sub-folders."""
    with pytest.raises(DataError, match=r"no data file in the folder; it looks for \.json.*not in sub-folders"):
        list(read_records(tmp_path))


def test_rows_at_hand_are_read_like_a_file():
    """Rows that are no mappings are bad rows."""
    records = read_records([GOOD, 3, GOOD])
    assert len(list(records)) == 2
    assert records.account.reasons.counts == {"not-an-object": 1}
    assert str(records.account.reasons.origins["not-an-object"][0]) == "row 1"


@pytest.mark.parametrize("name", ["missing.jsonl", "no/such/file.json", "./owner/name", "a\0b", "x" * 5000])
def test_missing_source_is_an_error_at_the_door(name):
    """At the call, not at the first row; a hub name is the hint."""
    with pytest.raises(DataError, match="no such file or folder; a hub data set is named owner/name"):
        read_records(name)


def test_unknown_kind_of_file_names_the_known_ones(tmp_path):
    """A workbook is the usual one."""
    (tmp_path / "rows.xlsx").write_text("question,answer\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.xlsx: not a known kind of file; use \.json"):
        list(read_records(tmp_path / "rows.xlsx"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_a_data_error(tmp_path):
    """Not a traceback."""
    path = mixed(tmp_path / "rows.jsonl", 1, 0)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on_error": "ignore"}, "on_error: must be one of report, skip, raise, count"),
        ({"limit": 0}, "limit: must be at least 1"),
        ({"format": "alpaka"}, "did you mean 'alpaca'"),
        ({"columns": {"anser": "a"}}, "columns: there is no 'anser'"),
    ],
)
def test_wrong_argument_is_a_config_error_at_the_door(arguments, words):
    """Before any row is read."""
    with pytest.raises(ConfigError, match=words):
        read_records([GOOD], **arguments)


@pytest.mark.parametrize("source", [3, None, GOOD, b"rows.jsonl"], ids=str)
def test_source_that_is_none_is_a_type_error(source):
    """One row is not a list of rows."""
    with pytest.raises(TypeError, match="read_records: source must be"):
        read_records(source)


def test_every_reason_has_its_cure():
    """None for all: what mends JSON does not mend a role."""
    cures = [reason.cure for reason in ROW_REASONS.values()]
    assert len(set(cures)) >= len(cures) - 1 and all(reason.name == name for name, reason in ROW_REASONS.items())


def test_codes_are_stable():
    """People filter by them; a new reason gets a new number at the end."""
    read = [reason.code for reason in ROW_REASONS.values() if reason.stage == "read"]
    assert read == [f"DATA{number:03}" for number in range(1, 21)]
    assert (ROW_REASONS["not-json"].code, ROW_REASONS["bad-tokens"].code) == ("DATA001", "DATA018")


@pytest.mark.parametrize("name", REAL_ROWS)
def test_every_row_of_the_real_file_is_read(name):
    """Counts as published."""
    if not (REAL / name).is_file():
        pytest.skip(f"{name} is not there: the real data is not part of the project")
    records = read_records(REAL / name, on_error="raise")
    found = list(records)
    rows, form = REAL_ROWS[name]
    assert len(found) == rows
    assert records.account.formats == {form: rows}
    assert all(record.language for record in found)


def test_real_tool_calls_and_weights_arrive():
    """211 calls of the Glaive sample, 500 weighted pairs of LLaMA-Factory's."""
    if not REAL.is_dir():
        pytest.skip("the real data is not part of the project")
    glaive = [m for record in read_records(REAL / "glaive_toolcall_en_demo.json") for m in record.messages]
    assert sum(len(message.tool_calls) for message in glaive) == 211
    assert sum(message.role == "tool" for message in glaive) == 211
    weights = [m.weight for record in read_records(REAL / "v1_sft_demo.jsonl") for m in record.messages]
    assert weights == [0.0, 1.0] * 500


def test_real_chinese_answers_are_han():
    """The rest are English words, numbers and translations."""
    if not REAL.is_dir():
        pytest.skip("the real data is not part of the project")
    languages = [record.language for record in read_records(REAL / "alpaca_zh_demo.json")]
    assert languages.count("script:Han") > 0.9 * len(languages)


def test_a_folder_names_what_it_cannot_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "response": "b"}))
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"b.jsonl: a link to a file that is not there; fetch the file"):
        list(read_records(tmp_path))
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "c.jsonl.zst").write_bytes(b"x")
    with pytest.raises(DataError, match=r"c.jsonl.zst: compressed by what is not read here; unpack it"):
        list(read_records(tmp_path))


@pytest.mark.parametrize("name", ["A.JSONL.GZ", "A.CSV.GZ"])
def test_a_suffix_in_capitals_is_a_suffix(tmp_path, name):
    text = "prompt,response\na,b\n" if "CSV" in name else json.dumps({"prompt": "a", "response": "b"}) + "\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert len(list(read_records(tmp_path / name))) == 1


def test_blanks_around_the_name_of_a_csv_column_are_no_part_of_it(tmp_path):
    (tmp_path / "a.csv").write_text("prompt, response\na,b\n")
    assert len(list(read_records(tmp_path / "a.csv"))) == 1


@pytest.mark.parametrize(("value", "task"), [(1.5, "1.5"), (2.0, "2.0"), (float("nan"), None), ("", None), (0, "0")])
def test_a_task_is_a_text_or_a_number(value, task):
    (record,) = read_records([{"prompt": "a", "response": "b", "kind": value}], columns={"task": "kind"})
    assert record.task == task


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_a_named_column_of_tasks_without_names_is_refused(value):
    rows = [{"prompt": "a", "response": "b", "kind": value}]
    with pytest.raises(DataError, match=r"the task is .*; write a text or a number"):
        list(read_records(rows, columns={"task": "kind"}))
    assert [record.task for record in read_records([{**rows[0], "type": value}])] == [None]
