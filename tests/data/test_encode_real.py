"""Real tool calls and content blocks, as read, encode without a refused row; tools and reasoning reach the tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.paths import REAL_DATA as DATA
from tests.tiny import tiny_tokenizer

from sftloss.data import ROLES, Examples, Message, Origin, Record, encode, read_records

MARKS = ("<|im_start|>", "<|im_end|>")
HERE = Origin("rows.jsonl", 0, 1)

# Tools in the system turn, calls as JSON between tags, several results melted into one user turn: as Qwen 2.5 does.
CHATML_TOOLS = """{% if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}{% if m.role == 'tool' %}\
{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ m.content }}
</tool_response>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}{% else %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}{{ '' if loop.first and not m.content else '\\n' }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"type": "function", "function": {"name": "rain", "arguments": {"town": "Bonn"}}}
TOOL = {"type": "function", "function": {"name": "rain", "parameters": {"town": "string"}}}


def with_template(template: str | None):
    return tiny_tokenizer([], chat_template=template, special=MARKS)


def text_of(example, tokenizer, *, role: str | None = None) -> str:
    keep = example.weights > 0 if role is None else example.roles == ROLES.index(role)
    return tokenizer.decode(example.input_ids[keep])


@pytest.mark.parametrize("template", [CHATML, CHATML_TOOLS, None], ids=["chatml", "tools", "none"])
@pytest.mark.parametrize("name", ["glaive_toolcall_en_demo.json", "v1_sft_demo.jsonl"])
def test_real_conversations_encode_without_a_refused_row(name, template):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not beside the repository")
    tokenizer = with_template(template)
    records = [record for record, _ in zip(read_records(DATA / name), range(120), strict=False)]
    examples = list(Examples(read_records(records, on_error="raise"), tokenizer))
    assert len(examples) == 120
    for record, example in zip(records, examples, strict=True):
        answers = [m for m in record.messages if m.role == "assistant" and m.weight != 0]
        trained = text_of(example, tokenizer)
        assert trained.count(MARKS[1] if template else tokenizer.eos_token) == len(answers)
        assert all(answer.content.strip() in trained for answer in answers)
        others = [m.content.strip() for m in record.messages if m.role != "assistant"]
        assert len(trained) <= len(text_of(example, tokenizer, role="response"))
        assert all(other in tokenizer.decode(example.input_ids[example.weights == 0]) for other in others)


def calling(**answer) -> tuple[Message, ...]:
    return (
        Message("user", "rain?"),
        Message("assistant", "", tool_calls=(CALL,), **answer),
        Message("tool", "wet"),
        Message("tool", "very"),
        Message("assistant", "Yes."),
    )


def test_tool_calls_are_rendered_by_a_template_that_knows_them():
    tokenizer = with_template(CHATML_TOOLS)
    example = encode(Record(HERE, messages=calling(), tools=(TOOL,)), tokenizer)
    call = '<tool_call>\n{"name": "rain", "arguments": {"town": "Bonn"}}\n</tool_call><|im_end|>'
    assert text_of(example, tokenizer) == f"{call}Yes.<|im_end|>"
    assert '"parameters"' in tokenizer.decode(example.input_ids) and example.notes == ()
    told = text_of(example, tokenizer, role="tool")
    assert "wet" in told and "very" in told and "assistant" not in told


@pytest.mark.parametrize("template", [CHATML, None], ids=["chatml", "none"])
def test_tool_calls_become_json_text_where_the_template_has_no_word_for_them(template):
    tokenizer = with_template(template)
    example = encode(Record(HERE, messages=calling(), tools=(TOOL,)), tokenizer)
    assert text_of(example, tokenizer).startswith('{"name": "rain", "arguments": {"town": "Bonn"}}')
    # Tools that a template does not show are told, not hidden.
    assert example.notes == (("tools_not_rendered", "calls_as_text") if template else ())


def test_tool_call_arguments_given_as_text_are_not_encoded_twice():
    tokenizer = with_template(CHATML_TOOLS)
    call = {"name": "rain", "arguments": '{"town": "Bonn"}'}
    messages = (Message("user", "rain?"), Message("assistant", "", tool_calls=(call,)))
    trained = text_of(encode(Record(HERE, messages=messages), tokenizer), tokenizer)
    assert '"arguments": {"town": "Bonn"}' in trained


def test_reasoning_is_text_where_the_template_has_no_field_for_it():
    messages = (Message("user", "q"), Message("assistant", "a", reasoning="because"))
    plain = with_template(CHATML)
    assert text_of(encode(Record(HERE, messages=messages), plain), plain) == "<think>\nbecause\n</think>\n\na<|im_end|>"
    field = CHATML.replace(
        "{{ m.content }}", "{{ '[' ~ m.reasoning_content ~ ']' if m.reasoning_content }}{{ m.content }}"
    )
    aware = with_template(field)
    assert text_of(encode(Record(HERE, messages=messages), aware), aware) == "[because]a<|im_end|>"


ROLE = st.sampled_from(["user", "assistant", "tool", "system"])
SAID = st.text(st.sampled_from("abc .\nß你"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ROLE, SAID, st.sampled_from([None, 0.0, 0.5, 1.0])), min_size=1, max_size=6))
def test_any_conversation_gets_roles_and_weights_by_message(turns):
    """Against a labelling written by hand: ChatML token by token, byte-level, so nothing merges."""
    tokenizer = with_template(CHATML)
    start, end = (tokenizer.convert_tokens_to_ids(mark) for mark in MARKS)
    roles, weights, ids = [], [], []
    code = {"user": 0, "assistant": 1, "system": 2, "tool": 3}
    for role, said, weight in turns:
        opener = [start, *tokenizer(f"{role}\n").input_ids]
        body = [*tokenizer(said).input_ids, end]
        newline = tokenizer("\n").input_ids
        worth = weight if weight is not None else float(role == "assistant")
        ids += opener + body + newline
        roles += [0] * len(opener) + [code[role]] * len(body) + [0]  # openers and separators are the template's
        weights += [0.0] * len(opener) + [worth] * len(body) + [0.0]
    weights[0] = 0.0
    if not any(weights):
        return
    example = encode(
        Record(HERE, messages=tuple(Message(role, said, weight=weight) for role, said, weight in turns)), tokenizer
    )
    assert example.input_ids.tolist() == ids
    assert example.roles.tolist() == roles
    assert example.weights.tolist() == weights
    assert example.is_end.tolist() == [i == end or i == tokenizer.eos_token_id for i in ids] or 1 not in example.roles
