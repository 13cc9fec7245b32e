"""Faults planted in a file are found by `sftloss inspect`: id, count, rows and fix; a clean file raises nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.test_inspect import CHATML, CLEAN, TAGGED, labelled, pair, parts, tagged, tokenizer_of
from tests.cli.tools import run

from sftloss.data import ROW_REASONS
from sftloss.errors import as_flag, spelled

LATE = tagged("<|im_start|>assistant\n{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n")
EMPTY = CHATML + "{% if messages[0].role == 'nobody' %}{% generation %}{% endgeneration %}{% endif %}"
DROPPING = CHATML.replace("{{ m.content }}", "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}")
OPENED = CHATML.replace(
    "<|im_start|>{{", "{% if loop.index0 == 1 and not loop.last %}({% else %}<|im_start|>{% endif %}{{"
)
STRICT = "{% if messages | length > 3 %}{{ raise_exception('too long') }}{% endif %}" + TAGGED
TALK = {"messages": [*pair(1)["messages"], *pair(2)["messages"]]}
AT = 7  # line of the planted row, after six clean ones


@pytest.fixture
def inspect(tmp_path: Path):
    """Findings of `sftloss inspect` on lines of a file, by id."""

    def call(lines: list[bytes], *flags: object, tokenizer: Any = None) -> dict[str, dict[str, Any]]:
        data, named = tmp_path / "data.jsonl", tmp_path / "tokenizer"
        data.write_bytes(b"\n".join(lines))
        (tokenizer or tokenizer_of()).save_pretrained(named)
        result = run("inspect", "--tokenizer", named, "--data", data, "--json", "-", *flags)
        assert result.exit_code == 0, result.stderr
        return {finding["id"]: finding for finding in json.loads(result.stdout)["findings"]}

    return call


def line(row: Any) -> bytes:
    return json.dumps(row).encode()


def planted(row: Any) -> list[bytes]:
    """Nine clean lines and the fault as the seventh of ten."""
    lines = [line(one) for one in CLEAN[:9]]
    lines.insert(AT - 1, row if isinstance(row, bytes) else line(row))
    return lines


def tokens(first: int, last: int, drop: int = 0) -> dict[str, Any]:
    """A pre-tokenised row trained from `first` after its opener to `last` before its end."""
    ask, opener, answer = parts(tokenizer_of(), 20)
    ids = ask + opener + answer[: len(answer) - drop]
    return labelled(ids, range(len(ask + opener) + first, len(ids) - last))


def user_trained() -> dict[str, Any]:
    """Labels that cover the user's words too, not the opener."""
    ask, opener, answer = parts(tokenizer_of(), 20)
    ids, start = ask + opener + answer, len(ask + opener)
    return {"input_ids": ids, "labels": [-100 if len(ask) <= i < start else token for i, token in enumerate(ids)]}


def end_only() -> dict[str, Any]:
    ask, opener, answer = parts(tokenizer_of(), 20)
    ids = ask + opener + answer[-1:]
    return labelled(ids, range(len(ids) - 1, len(ids)))


def said(**message: Any) -> dict[str, Any]:
    """A conversation whose answer is this message."""
    return {"messages": [pair(0)["messages"][0], {"role": "assistant", "content": "Yes.", **message}]}


def test_inspect_finds_nothing_in_a_clean_file(inspect):
    rows = [*CLEAN, *({**tokens(0, 0), "task": "b"} for _ in range(1))]
    assert inspect([line(row) for row in rows]) == {}


READ = {
    "not-json": b"{'messages': []}",
    "not-utf8": b'{"text": "caf\xe9"}',
    "not-an-object": b"3",
    "duplicate-key": b'{"text": "a", "text": "b"}',
    "non-finite-number": b'{"text": "a", "weight": NaN}',
    "lone-surrogate": b'{"text": "a \\ud800"}',
    "unknown-shape": {"nothing": 1},
    "empty-messages": {"messages": []},
    "non-string-content": said(content=3),
    "unsupported-content": {"text": "a", "images": ["a.png"]},
    "unknown-role": {"messages": [{"role": "robot", "content": "hi"}, pair(0)["messages"][1]]},
    "no-response": {"messages": pair(0)["messages"][:1]},
    "empty-answer": pair(0, answer=""),
    "bad-weight": said(weight=-1),
    "bad-tool-call": said(tool_calls=[{"function": {}}]),
    "bad-tokens": {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1]},
}


@pytest.mark.parametrize("reason", READ)
def test_inspect_finds_a_row_that_cannot_be_read(inspect, reason):
    found = inspect(planted(READ[reason]))
    code, cure = ROW_REASONS[reason].code, spelled(ROW_REASONS[reason].cure, as_flag)
    finding = found[code]
    assert set(found) == {code} and finding["value"] == 0.1 and finding["severity"] == "warning"
    assert finding["rows"] == [f"{finding['rows'][0].rpartition(':')[0]}:{AT}"] and finding["fix"] == cure
    assert "1 of 10 rows (10 %)" in finding["sentence"]


def test_inspect_finds_a_file_that_was_cut_off(inspect):
    finding = inspect([*(line(row) for row in CLEAN[:9]), b'{"messages": [{"role": "us'])["DATA004"]
    assert finding["value"] == 0.1 and finding["rows"][0].endswith(":10") and "again" in finding["fix"]


def test_inspect_finds_a_line_that_is_too_long(inspect, monkeypatch):
    """Without writing one: the bound is lowered."""
    monkeypatch.setattr("sftloss.data.read.json_rows.LINE_BYTES", 500)
    finding = inspect(planted(pair(0, answer="a" * 600)))["DATA003"]
    assert finding["value"] == 0.1 and finding["rows"][0].endswith(f":{AT}")


MASK = {
    "MASK001": tokens(100, 0),
    "MASK003": tokens(0, 1),
    "MASK004": tokens(1, 0),
    "MASK005": tokens(-3, 0),
    "MASK007": pair(0, answer="a" * 60),
    "MASK010": user_trained(),
    "DATA054": {"input_ids": [5], "labels": [5]},
    "DATA019": {"prompt": "Which?", "chosen": "This.", "rejected": "That."},
    "DATA020": {"prompt": "Which?", "completion": "That.", "label": False},
    "DATA056": {"input_ids": [5, 10**6], "labels": [-100, 10**6]},
    "DATA117": pair(0, answer="a" * 60),
    "DATA111": pair(50, answer="I am {{name}}."),
    "MASK012": labelled([70, 71, 72, tokenizer_of().eos_token_id], range(1, 4)),
    "DATA101": {"messages": [*pair(0)["messages"], {"role": "user", "content": "And?"}]},
    "DATA102": pair(2),
    "DATA104": pair(50, answer="\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u3002"),
    "DATA105": pair(50, answer="Sure <|start|> more."),
    "DATA106": end_only(),
    "DATA107": pair(50) | {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]},
}
FIXES = {
    "MASK001": "drop these rows",
    "MASK003": "end each answer",
    "MASK004": "right after the opener",
    "MASK005": "label the opener -100",
    "MASK007": "--truncate drop",
    "DATA117": "larger --max-length",
    "MASK010": "label everything outside answers -100",
    "DATA101": "after the last answer",
    "DATA102": "remove the copies",
    "DATA105": "remove it from the text",
    "DATA106": "drop these rows",
    "DATA107": "renders tools",
}


@pytest.mark.parametrize("id", MASK)
def test_inspect_finds_a_planted_row(inspect, id):
    flags = (
        ("--max-length", 60, "--truncate", "drop" if id == "DATA117" else "end") if id in ("MASK007", "DATA117") else ()
    )
    found = inspect(planted(MASK[id]), *flags)
    finding = found[id]
    assert finding["value"] in (0.1, pytest.approx(1 / 9)) and [r.rpartition(":")[2] for r in finding["rows"]] == ["7"]
    assert FIXES.get(id, "") in finding["fix"] and (finding["fix"] or finding["severity"] == "info")
    assert set(found) == {id}


def test_inspect_finds_prompts_that_are_answered_twice(inspect):
    finding = inspect(planted(pair(2, answer="No.")))["DATA103"]
    assert finding["value"] == 0.2 and [r.rpartition(":")[2] for r in finding["rows"]] == ["3", "7"]


@pytest.mark.parametrize(
    ("id", "template", "value"),
    [
        ("MASK002", EMPTY, 1.0),
        ("MASK003", LATE, 1.0),
        ("MASK006", OPENED, 0.1),
        ("DATA051", STRICT, 0.1),
        ("DATA055", DROPPING, 0.1),
    ],
)
def test_inspect_finds_a_fault_of_the_template(inspect, tmp_path, id, template, value):
    (tmp_path / "template.jinja").write_text(template, encoding="utf-8")
    found = inspect(planted(TALK), "--template", tmp_path / "template.jinja")
    severity = "error" if value == 1 or id == "DATA055" else "warning"
    assert found[id]["value"] == value and found[id]["severity"] == severity
    assert found[id]["fix"]


def test_inspect_finds_an_end_that_is_masked_as_padding(inspect):
    tokenizer = tokenizer_of(pad_is_end=True)
    row = tokens(0, 0, drop=1)
    end = tokenizer.eos_token_id
    row = {"input_ids": [*row["input_ids"], end, end], "labels": [*row["labels"], -100, -100]}
    finding = inspect(planted(row), tokenizer=tokenizer)["MASK008"]
    assert finding["value"] == 0.1 and finding["rows"][0].endswith(":7") and "pad_token" in finding["fix"]


def test_inspect_finds_a_second_beginning(inspect):
    lines = [line({"text": f"once {i}"}) for i in range(9)]
    lines.insert(AT - 1, line({"text": "<|bos|>once more"}))
    finding = inspect(lines, tokenizer=tokenizer_of(prepend_bos=True))["MASK009"]
    assert finding["value"] == 0.1 and finding["rows"][0].endswith(":7") and "add_special_tokens" in finding["fix"]


def test_inspect_finds_a_column_that_no_row_has(inspect):
    finding = inspect(planted(pair(50)), "--columns", "task=tsak")["DATA108"]
    assert "tsak" in finding["sentence"] and finding["fix"] == "correct --columns"
