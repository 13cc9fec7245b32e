"""Every format people keep SFT data in becomes the same record."""

from __future__ import annotations

import json

import pytest

from sftloss.data import BadRow, Message, Origin, Record, detect_format
from sftloss.data.formats.record import COLUMN_ROLES, Shape, to_record
from sftloss.data.formats.weights import ROW_WEIGHTS
from sftloss.errors import ConfigError

HERE = Origin("rows.jsonl", 0, 1)


def record_of(row, **columns) -> Record:
    return to_record(row, HERE, shape=Shape(columns=columns))[0]


def said(row, **columns) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in record_of(row, **columns).messages]


def reason_of(row, **columns) -> str:
    with pytest.raises(BadRow) as caught:
        record_of(row, **columns)
    return caught.value.reason


def chat(*turns) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


ASKED = [("user", "2 + 2?"), ("assistant", "4")]
SAME_ROW = {
    "alpaca": {"instruction": "2 + 2?", "input": "", "output": "4"},
    "messages": chat(*ASKED),
    "sharegpt": {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "prompt/completion": {"prompt": "2 + 2?", "completion": "4"},
    "prompt/response": {"prompt": "2 + 2?", "response": "4"},
    "question/answer": {"question": "2 + 2?", "answer": "4"},
    "query/response": {"query": "2 + 2?", "response": "4"},
    "instruction/response": {"instruction": "2 + 2?", "response": "4"},
    "input/output": {"input": "2 + 2?", "output": "4"},
    "problem/solution": {"problem": "2 + 2?", "solution": "4"},
}


@pytest.mark.parametrize("name", SAME_ROW)
def test_every_format_of_one_conversation_gives_the_same_messages(name):
    """The format is how the row is written, not what it says."""
    assert detect_format(SAME_ROW[name]) == name
    assert said(SAME_ROW[name]) == ASKED


@pytest.mark.parametrize("name", SAME_ROW)
def test_null_columns_are_as_good_as_absent_ones(name):
    """A table of mixed rows has every column in every row, most of them null."""
    everything = dict.fromkeys(
        (*COLUMN_ROLES, *ROW_WEIGHTS, "conversations", "question", "answer", "context", "images")
    )
    assert detect_format({**everything, **SAME_ROW[name]}) == name
    assert said({**everything, **SAME_ROW[name]}) == ASKED


def test_conversations_with_roles_are_messages():
    """`conversations` is a name, `from` and `value` are the ShareGPT format."""
    row = {"conversations": chat(*ASKED)["messages"]}
    assert detect_format(row) == "messages"
    assert said(row) == ASKED


def test_messages_win_over_the_prompt_column_beside_them():
    """UltraChat repeats its first question as `prompt`, NuminaMath its solution."""
    assert said({"prompt": "x", "solution": "y", "text": "z", **chat(*ASKED)}) == ASKED


def test_solution_wins_over_the_bare_answer():
    """Of a worked solution and a final number, the solution is the text to learn."""
    assert said({"problem": "p", "solution": "long", "answer": "4"})[1] == ("assistant", "long")


def test_alpaca_joins_input_system_and_history_in_order():
    """What was said first comes first; the input follows its instruction on a line of its own."""
    row = {"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["q", "a"]]}
    assert said(row) == [
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("user", "i\nx"),
        ("assistant", "o"),
    ]


def test_context_of_a_question_is_not_dropped():
    """Dolly's closed questions make no sense without their passage."""
    assert said({"instruction": "Who?", "context": "Ann came.", "response": "Ann"})[0] == ("user", "Who?\nAnn came.")


def test_system_column_gives_way_to_the_conversations_own():
    """A chat with two system messages is refused by most templates."""
    row = {"system": "outer", **chat(("system", "inner"), *ASKED)}
    assert [role for role, _ in said(row)].count("system") == 1
    assert said({"system": "outer", **chat(*ASKED)})[0] == ("system", "outer")
    assert said({"system": " ", **chat(*ASKED)}) == ASKED


@pytest.mark.parametrize(
    ("spelling", "role"),
    [("human", "user"), ("user", "user"), ("User", "user"), (" USER ", "user"), ("system", "system")]
    + [("developer", "system"), ("observation", "tool"), ("function_response", "tool"), ("tool", "tool")]
    + [(name, "assistant") for name in ("gpt", "chatgpt", "bard", "bing", "model", "assistant", "Assistant")],
)
def test_role_spelling_becomes_the_templates_word(spelling, role):
    """Chat templates know four roles."""
    turns = [{"from": spelling, "value": "x"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert said({"conversations": turns})[0] == (role, "x")


def test_prompt_messages_of_the_assistant_are_context():
    """In prompt/completion only the completion is trained; a weight the data states stays."""
    row = {
        "prompt": [
            {"role": "assistant", "content": "before"},
            {"role": "assistant", "content": "kept", "weight": 1},
            {"role": "user", "content": "q"},
        ],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    assert [message.weight for message in record_of(row).messages] == [0.0, 1.0, None, None]


def test_prompt_text_and_completion_messages_may_be_mixed():
    """TRL's two spellings of the same row."""
    assert said({"prompt": "2 + 2?", "completion": [{"role": "assistant", "content": "4"}]}) == ASKED
    assert said({"prompt": [{"role": "user", "content": "2 + 2?"}], "completion": "4"}) == ASKED


def test_messages_written_as_json_text_are_read():
    """Tables without nested columns keep the list as text."""
    assert said({"messages": json.dumps(chat(*ASKED)["messages"])}) == ASKED


def test_text_row_is_trained_as_it_is():
    """Nothing is stripped: white space is tokens."""
    record = record_of({"text": " Once upon a time \n"})
    assert record.text == " Once upon a time \n"
    assert record.messages is None and record.tokens is None


@pytest.mark.parametrize("key", ["text", "value"])
def test_text_blocks_are_joined_without_a_gap(key):
    """A block boundary is no character."""
    blocks = [{"type": "text", key: "a"}, "b", {"type": "text", key: "c"}]
    assert said(chat(("user", "q"), ("assistant", blocks)))[1] == ("assistant", "abc")


def test_thinking_is_kept_apart_from_the_answer():
    """As a field or as a block, it is the reasoning; templates decide where it goes."""
    field = {"role": "assistant", "content": "4", "reasoning_content": "2+2"}
    block = {"role": "assistant", "content": [{"type": "thinking", "thinking": "2+2"}, {"type": "text", "text": "4"}]}
    for turn in (field, block, {"role": "assistant", "content": "4", "thinking": "2+2"}):
        assert record_of({"messages": [{"role": "user", "content": "q"}, turn]}).messages[1] == Message(
            "assistant", "4", reasoning="2+2"
        )


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
CALL_SPELLINGS = {
    "openai": {"role": "assistant", "content": None, "tool_calls": [CALL]},
    "openai, arguments as text": {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}],
    },
    "flat": {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 2}}]},
    "list as text": {"role": "assistant", "tool_calls": json.dumps([CALL])},
    "old openai": {"role": "assistant", "function_call": {"name": "add", "arguments": '{"a": 2}'}},
    "sharegpt": {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
    "anthropic": {"role": "assistant", "content": [{"type": "tool_use", "name": "add", "input": {"a": 2}}]},
    "llama-factory": {
        "role": "assistant",
        "content": [{"type": "tool_call", "value": '{"name": "add", "arguments": {"a": 2}}'}],
    },
}


@pytest.mark.parametrize("spelling", CALL_SPELLINGS)
def test_tool_call_becomes_the_shape_templates_read(spelling):
    """Whoever wrote it, the template gets an object of arguments."""
    record = record_of({"messages": [{"role": "user", "content": "q"}, CALL_SPELLINGS[spelling]]})
    assert record.messages[1] == Message("assistant", "", tool_calls=(CALL,))


def test_tool_call_keeps_its_id():
    """Some templates refer to it from the result."""
    row = {"messages": [{"role": "assistant", "tool_calls": [{"id": "c1", **CALL}]}]}
    assert record_of(row).messages[0].tool_calls[0]["id"] == "c1"


def test_anthropic_tool_result_is_a_tool_message():
    """There it comes as a user's message; its words are the tool's."""
    result = {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "4"}]}]}
    assert said({"messages": [result, {"role": "assistant", "content": "a"}]})[0] == ("tool", "4")


@pytest.mark.parametrize("written", [json.dumps, list], ids=["text", "list"])
def test_tools_get_the_envelope_templates_expect(written):
    """Glaive gives the bare function, OpenAI wraps it."""
    offered = [{"name": "add", "parameters": {}}, {"type": "function", "function": {"name": "sub"}}]
    tools = record_of({"tools": written(offered), **chat(*ASKED)}).tools
    assert [tool["function"]["name"] for tool in tools] == ["add", "sub"]


@pytest.mark.parametrize("none", ["[]", "", [], None])
def test_no_tools_are_none(none):
    """An empty list would make templates announce tools that are not there."""
    assert record_of({"tools": none, **chat(*ASKED)}).tools is None


@pytest.mark.parametrize(
    ("field", "columns"),
    [
        ("task", ("task", "category", "type")),
        ("language", ("language", "lang")),
        ("source", ("source", "dataset", "channel", "subset")),
    ],
)
def test_groups_are_read_from_their_usual_columns(field, columns):
    """The first of several wins; a number is a name like another."""
    for column in columns:
        assert getattr(record_of({column: " x ", **chat(*ASKED)}), field) == "x"
    assert getattr(record_of({columns[0]: "first", columns[1]: "second", **chat(*ASKED)}), field) == "first"
    assert getattr(record_of({columns[0]: 3, **chat(*ASKED)}), field) == "3"


def test_language_falls_back_to_the_script_of_the_answer():
    """The answer is what is trained, so its script counts and not the question's."""
    assert (
        record_of(chat(("user", "Translate: good morning"), ("assistant", "早上好，今天天气很好"))).language
        == "script:Han"
    )
    assert record_of({"lang": "zh", **chat(("user", "q"), ("assistant", "早上好"))}).language == "zh"


def test_columns_name_what_the_data_calls_otherwise():
    """All of a row's parts can be named at once."""
    row = {"q": "2 + 2?", "a": "4", "s": "sys", "kind": "math", "l": "en", "from_": "web", "w": 0.5}
    record = record_of(row, prompt="q", response="a", system="s", task="kind", language="l", source="from_", weight="w")
    assert [message.content for message in record.messages] == ["sys", "2 + 2?", "4"]
    assert (record.task, record.language, record.source, record.weight) == ("math", "en", "web", 0.5)


def test_named_columns_win_over_columns_that_look_like_data():
    """The user's word counts more than any column name."""
    row = {"messages": [], "text": "no", "instruction": "no", "output": "no", "input": "2 + 2?", "target": "4"}
    assert said(row, prompt="input", response="target") == ASKED
    assert record_of(row, text="target").text == "4"
    assert said({"input_ids": [1], "dialog": chat(*ASKED)["messages"]}, messages="dialog") == ASKED


def test_input_stays_the_context_of_a_named_prompt_unless_it_is_named_itself():
    """Nothing of the question is lost, and nothing is said twice."""
    assert said({"q": "I", "input": "x", "a": "o"}, prompt="q", response="a")[0] == ("user", "I\nx")
    assert said({"context": "Q", "target": "o"}, prompt="context", response="target")[0] == ("user", "Q")


def test_named_metadata_leaves_the_format_alone():
    """Naming the task says nothing about the prompt."""
    assert said({"q": "x", **SAME_ROW["alpaca"]}, task="q") == ASKED
    assert said({"passage": "P", "instruction": "I", "output": "O"}, input="passage")[0] == ("user", "I\nP")


def test_preference_row_says_how_to_train_on_the_chosen_answer():
    """The cure in the message works, and so does naming the column."""
    row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    with pytest.raises(BadRow, match="format='preference' trains the chosen answer"):
        record_of(row)
    assert said(row, response="chosen") == ASKED
    chosen, _ = to_record(row, HERE, shape=Shape("preference"))
    assert [(m.role, m.content) for m in chosen.messages] == ASKED


def test_missing_named_column_is_the_rows_fault_and_a_wrong_key_the_users():
    """A row can lack a column; a misspelled role is never meant."""
    assert reason_of({"a": "4"}, prompt="q", response="a") == "unknown-shape"
    with pytest.raises(ConfigError, match="did you mean 'response'"):
        Shape(columns={"respones": "a"})
    with pytest.raises(ConfigError, match="name of a column"):
        Shape(columns={"prompt": ""})


def test_forced_format_reads_its_columns_only():
    """A row with both gets the one that was asked for."""
    row = {"text": "t", **SAME_ROW["question/answer"]}
    assert to_record(row, HERE, shape=Shape("text"))[0].text == "t"
    assert to_record(row, HERE, shape=Shape("question/answer"))[1] == "question/answer"
    with pytest.raises(BadRow, match="no instruction"):
        to_record(row, HERE, shape=Shape("alpaca"))
    with pytest.raises(BadRow, match="no input_ids"):
        to_record(row, HERE, shape=Shape("tokens"))
    with pytest.raises(ConfigError, match="did you mean 'alpaca'"):
        Shape("alpacca")
