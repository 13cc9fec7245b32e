"""Formats are records, one file each: lists, help, the docs table and detection come from them; others can be added."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest
from tests.cli.tools import MODEL, run
from tests.paths import ROOT

from sftloss.data import FORMATS, Format, Message, Origin, detect_format, read_records, register_format
from sftloss.data.formats import format_kinds
from sftloss.data.formats.__main__ import table
from sftloss.data.formats.format import load_plug_ins
from sftloss.data.formats.record import Shape, to_record
from sftloss.docstrings import replace_region
from sftloss.errors import ConfigError

HERE = Origin("rows.jsonl", 0, 1)
ROW = {"ask": "2 + 2?", "tell": "4"}


def _convert(row):
    return [Message("user", row["ask"]), Message("assistant", row["tell"])]


ASK_TELL = Format("ask/tell", lambda row: "ask" in row and "tell" in row, _convert, "`ask` and `tell`", ROW)


@pytest.fixture
def fresh():
    """The formats as they are, whatever a test adds."""
    load_plug_ins()
    kept = dict(FORMATS)
    yield
    FORMATS.clear()
    FORMATS.update(kept)
    load_plug_ins.cache_clear()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_detects_and_converts_its_own_example(name):
    format = FORMATS[name]
    is_named = name == "preference"  # which half is to be trained, no row says
    assert format.columns and (is_named or detect_format(format.example) == name)
    record, detected = to_record(format.example, HERE, shape=Shape(name) if is_named else None)
    assert detected == name
    assert sum(payload is not None for payload in (record.messages, record.text, record.tokens)) == 1
    assert to_record(format.example, HERE, shape=Shape(name))[0] == record


def test_formats_are_asked_in_the_order_that_their_records_state():
    orders = [format.order for format in FORMATS.values()]
    assert orders == sorted(orders)
    assert format_kinds() == ("tokens", "sharegpt", "messages", "alpaca", "prompt/response", "text", "preference")


@pytest.mark.parametrize("verb", ["analyze", "inspect", "lengths"])
def test_an_unknown_format_lists_every_kind(verb, tmp_path):
    words = ["--model", MODEL] if verb != "lengths" else []
    (tmp_path / "d.jsonl").write_text(json.dumps(ROW))
    done = run(verb, *words, "--data", str(tmp_path / "d.jsonl"), "--format", "nonsense")
    assert done.exit_code == 2 and ", ".join(format_kinds()) in done.stderr


def test_docs_table_is_made_from_the_records():
    """`python -m sftloss.data.formats` rewrites it."""
    page = (ROOT / "docs" / "inspect.md").read_text(encoding="utf-8")
    assert replace_region(page, "formats", table()) == page


def test_a_registered_format_is_read_like_an_own_one(fresh):
    register_format(ASK_TELL)
    (record,) = read_records([ROW])
    assert [message.content for message in record.messages] == ["2 + 2?", "4"]
    assert next(iter(FORMATS)) == "ask/tell" and "ask/tell" in table() and "ask/tell" in format_kinds()
    assert len(list(read_records([ROW], format="ask/tell"))) == 1
    with pytest.raises(ConfigError, match="already a format 'ask/tell'"):
        register_format(ASK_TELL)


def test_a_format_of_an_installed_package_reaches_the_command_line(fresh, monkeypatch, tmp_path):
    """By an entry point; no file of the project is touched."""
    (tmp_path / "their_format.py").write_text(
        "from sftloss.data import Format, Message\n"
        "FORMAT = Format('ask/tell', lambda row: 'ask' in row,\n"
        "    lambda row: [Message('user', row['ask']), Message('assistant', row['tell'])])\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("ask/tell", "their_format:FORMAT", "sftloss.formats")
    monkeypatch.setattr("sftloss.data.formats.format.plug_ins", lambda group: {entry.name: entry})
    load_plug_ins.cache_clear()
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    for flags in ((), ("--format", "ask/tell")):
        result = run("inspect", "--tokenizer", MODEL, "--data", data, "--json", "-", *flags)
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["headlines"][0].startswith("1 of 1 rows")


@pytest.mark.parametrize(("value", "words"), [("json:loads", "is no sftloss.data.Format"), ("no_such:x", "imported")])
def test_a_plug_in_that_is_no_format_is_refused_by_name(fresh, monkeypatch, value, words):
    entry = EntryPoint("theirs", value, "sftloss.formats")
    monkeypatch.setattr("sftloss.data.formats.format.plug_ins", lambda group: {entry.name: entry})
    load_plug_ins.cache_clear()
    with pytest.raises(ConfigError, match=f"'theirs'.*{words}"):
        list(read_records([ROW]))
