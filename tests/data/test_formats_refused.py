"""Every row that is of no format has a reason and a place, and no row at all ends in a traceback."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftloss.data import BadRow, Origin, read_records
from sftloss.data.formats.record import COLUMN_ROLES, FORMATS, Shape, to_record
from sftloss.data.formats.weights import MESSAGE_WEIGHTS, ROW_WEIGHTS, TOKEN_WEIGHTS

HERE = Origin("rows.jsonl", 0, 1)
ASKED = [("user", "2 + 2?"), ("assistant", "4")]
ALPACA = {"instruction": "2 + 2?", "input": "", "output": "4"}


def fault_of(row) -> BadRow:
    with pytest.raises(BadRow) as caught:
        to_record(row, HERE)
    return caught.value


def chat(*turns) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


BAD_ROWS = {
    "unknown-shape": [{}, {"foo": "x"}, {"instruction": "x"}, {"output": "x"}],
    "empty-messages": [{"messages": []}, {"conversations": []}, {"messages": None}],
    "non-string-content": [
        chat(("user", 3), ("assistant", "a")),
        chat(("user", None), ("assistant", "a")),
        chat(("user", {"a": 1}), ("assistant", "a")),
        chat(("user", [3]), ("assistant", "a")),
        {"messages": ["hello"]},
        {"messages": "hello"},
        {"messages": {"role": "user"}},
        {"question": 3, "answer": "x"},
        {"question": "x", "answer": 3},
        {"text": 3},
        {"history": [["only one"]], **ALPACA},
        {"system": 3, **chat(*ASKED)},
        {"messages": [{"role": "assistant", "content": "a", "thinking": 3}]},
        chat(("user", [{"type": "text"}]), ("assistant", "a")),
    ],
    "unsupported-content": [
        chat(("user", [{"type": "image_url", "image_url": {}}]), ("assistant", "a")),
        chat(("user", [{"type": "hologram"}]), ("assistant", "a")),
        chat(("user", [{"type": "tool_result", "content": "4"}, {"type": "text", "text": "x"}]), ("assistant", "a")),
        {"images": ["a.png"], **chat(*ASKED)},
        {"image": b"png", **chat(*ASKED)},
        {"messages": [{"role": "assistant", "content": "ab", "train_detail": [{"begin_offset": 0}]}]},
    ],
    "unknown-role": [
        chat(("narrator", "x"), ("assistant", "a")),
        chat((None, "x"), ("assistant", "a")),
        {"messages": [{"content": "x"}]},
        {"messages": [{"role": 3, "content": "x"}]},
    ],
    "no-response": [chat(("user", "q")), chat(("system", "s"), ("user", "q"))],
    "empty-answer": [
        chat(("user", "q"), ("assistant", "")),
        chat(("user", "q"), ("assistant", " \n")),
        chat(("user", "q"), ("assistant", None)),
        chat(("user", "q"), ("assistant", ""), ("user", "q"), ("assistant", "a")),
        {"question": "x", "answer": ""},
        {"question": "x", "answer": None},
        {"text": "  "},
    ],
    "bad-tool-call": [
        {"conversations": [{"from": "function_call", "value": "Action: add"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [3]}]},
        {"tools": "not json", **chat(*ASKED)},
        {"tools": "[NaN]", **chat(*ASKED)},
        {"tools": [3], **chat(*ASKED)},
    ],
    "lone-surrogate": [
        {"question": "\ud800", "answer": "a"},
        {"text": "x \udfff"},
        {"task": "\ud800", **chat(*ASKED)},
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": "\ud800"}}]}]},
    ],
}


@pytest.mark.parametrize(
    ("reason", "row"),
    [(reason, row) for reason, rows in BAD_ROWS.items() for row in rows],
    ids=[f"{reason}-{i}" for reason, rows in BAD_ROWS.items() for i in range(len(rows))],
)
def test_bad_row_has_its_reason(reason, row):
    """Each way of being wrong is told apart."""
    assert fault_of(row).reason == reason


def test_empty_turn_of_weight_zero_is_no_empty_answer():
    """What is not trained may be anything."""
    turns = [{"role": "assistant", "content": "", "weight": 0}, *chat(*ASKED)["messages"]]
    assert len(to_record({"messages": turns}, HERE)[0].messages) == 3


def test_message_number_is_in_the_reason():
    """In a conversation of forty turns the row alone is no place."""
    assert "message 2 has the role 'narrator'" in fault_of(chat(("user", "q"), ("narrator", "x"))).detail


@pytest.mark.parametrize("row", [{"q" * 500: "x"}, chat(("user", "q"), ("\x1b[31m" + "r" * 500, "x"))])
def test_reason_echoes_little_and_no_control_character(row):
    """A report must not carry a row out of the house, nor steer the terminal that shows it."""
    said = str(fault_of(row))
    assert "\x1b" not in said
    assert "q" * 81 not in said and "r" * 81 not in said


KEYS = sorted(
    {
        *COLUMN_ROLES,
        *MESSAGE_WEIGHTS,
        *ROW_WEIGHTS,
        *TOKEN_WEIGHTS,
        "role",
        "from",
        "content",
        "value",
        "type",
        "answer",
    }
    | {"conversations", "question", "attention_mask", "position_ids", "seq_lengths", "roles", "tool_calls", "images"}
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["user", "assistant", "text", "image", "tool_result", "tool_use", "[]", '{"name": "f"}'])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    row=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), forced=st.none() | st.sampled_from(tuple(FORMATS))
)
def test_any_row_becomes_a_record_or_has_a_reason(row, forced):
    """No row of JSON values, however odd, ends in a traceback."""
    try:
        record, name = to_record(row, HERE, shape=Shape(forced))
    except BadRow as fault:
        assert str(fault).startswith("DATA0")
        return
    assert name in FORMATS
    assert sum(payload is not None for payload in (record.messages, record.text, record.tokens)) == 1


@pytest.mark.parametrize("name", ["prompt", "response"])
@pytest.mark.parametrize("value", [["x"], ("x", "y"), [1]])
def test_a_list_of_texts_in_place_of_a_text_names_its_column(name, value):
    records = read_records([{"prompt": "a", "response": "b", name: value}], on_error="count")
    assert not list(records)
    detail = records.account.reasons.details["non-string-content"]
    assert detail.startswith(f"{name} is {value!r}; write one text")
