"""Roles and weights of encoded conversations line up with the words, for the templates that are really out there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import BOS, EOS, tiny_tokenizer

from sftloss.data import (
    ROLES,
    ROW_REASONS,
    Example,
    Examples,
    Message,
    Origin,
    Record,
    RowError,
    answer_spans,
    encode,
    read_records,
)
from sftloss.data.account import NOTE_RULES
from sftloss.errors import ConfigError
from sftloss.rules import findings_of

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_TAGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{% if system and loop.last %}{{ system }}\n\n{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DROPS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILIES = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", True),
    "chatml with tags": (CHATML_TAGS, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", True),
    "llama 3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>", True),
    "gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", False),
    "mistral": (MISTRAL, ("[INST]", "[/INST]"), EOS, False),
    "none": (None, (), EOS, True),
}
HERE = Origin("rows.jsonl", 0, 1)


@lru_cache
def tokenizer_of(family: str):
    template, special, _, _ = FAMILIES[family]
    return tiny_tokenizer([], vocab_size=300, chat_template=template, special=special, bos=True)


def conversation(*turns: str, system: str | None = None) -> Record:
    """user, assistant, user, ... after an optional system message."""
    head = () if system is None else (Message("system", system),)
    spoken = tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns))
    return Record(HERE, messages=head + spoken)


def trained_text(example, tokenizer) -> str:
    return tokenizer.decode(example.input_ids[example.weights > 0])


def words_of(example, tokenizer, role: str) -> str:
    return tokenizer.decode(example.input_ids[example.roles == ROLES.index(role)])


# No leading or trailing whitespace: most families trim it, and the trimmed text is then what is trained.
letters = st.sampled_from("abzXY09.?!-_{}%\"'/éß你好🙂")
words = st.builds(lambda first, rest, last: first + rest + last, letters, st.text(letters | st.just(" ")), letters)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=3), system=st.none() | words)
def test_encode_trains_the_assistants_words_and_their_end_token_only(family, pairs, system):
    """Decoding the weighted tokens gives every answer with its end, and nothing of anyone else."""
    _, _, end, has_system = FAMILIES[family]
    tokenizer = tokenizer_of(family)
    turns = [turn for pair in pairs for turn in pair]
    record = conversation(*turns, system=system if has_system else None)
    example = encode(record, tokenizer)
    lead = " " if family == "mistral" else ""
    assert trained_text(example, tokenizer) == "".join(f"{lead}{answer}{end}" for _, answer in pairs)
    assert words_of(example, tokenizer, "response") == trained_text(example, tokenizer)
    assert set(example.weights.tolist()) == {0.0, 1.0}
    assert bool(example.is_end[example.weights > 0][-1])
    if system is not None and has_system:
        assert system in words_of(example, tokenizer, "system")
        assert all(turn in words_of(example, tokenizer, "prompt") for turn, _ in pairs)


def test_encode_says_which_way_the_answer_was_found():
    record = conversation("a", "b")
    found = {family: encode(record, tokenizer_of(family)).method for family in FAMILIES}
    assert found.pop("chatml with tags") == "generation tags"
    assert set(found.values()) == {"positions"}


def test_encode_gives_the_same_labels_by_tags_and_by_positions():
    record = conversation("hello", "hi\n\nthere", "and", "so on", system="be kind")
    by_position, by_tags = (encode(record, tokenizer_of(family)) for family in ("chatml", "chatml with tags"))
    assert by_position.prompts == by_tags.prompts and len(set(by_position.prompts)) == 2
    for name in ("input_ids", "weights", "roles", "is_end"):
        assert torch.equal(getattr(by_position, name), getattr(by_tags, name)), name


def with_tags(answer: str):
    """ChatML whose assistant turn is `answer`, where %( and %) stand for the generation tags."""
    turn = answer.replace("%(", "{% generation %}").replace("%)", "{% endgeneration %}")
    template = CHATML_TAGS.replace("{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}", turn)
    assert turn in template
    return tiny_tokenizer([], chat_template=template, special=("<|im_start|>", "<|im_end|>"))


def test_encode_takes_several_runs_of_tags_in_one_answer():
    """A run belongs to the message in which it stands, however many there are; what no tag holds is not trained."""
    tokenizer = with_tags("%({{ m.content }}%)!%(<|im_end|>%)\n")
    example = encode(conversation("a", "b", "c", "d"), tokenizer)
    assert example.method == "generation tags"
    assert trained_text(example, tokenizer) == "b<|im_end|>d<|im_end|>"


def test_encode_does_not_trust_tags_that_leave_an_answer_out():
    """The tags hold the last answer only, so they are no mask of the conversation; the positions decide."""
    tokenizer = with_tags(
        "{% if loop.last %}%({{ m.content }}<|im_end|>%){% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    )
    example = encode(conversation("a", "b", "c", "d"), tokenizer)
    assert example.method == "positions"
    assert trained_text(example, tokenizer) == "b<|im_end|>d<|im_end|>"


def test_encode_does_not_train_an_opener_that_the_tags_hold():
    template = CHATML_TAGS.replace("{{ m.role }}\n{% if", "{% if").replace(
        "{% generation %}", "{% generation %}assistant\n"
    )
    template = template.replace("{% else %}", "{% else %}user\n")
    tokenizer = tiny_tokenizer([], chat_template=template, special=("<|im_start|>", "<|im_end|>"))
    example = encode(conversation("a", "b"), tokenizer)
    assert trained_text(example, tokenizer) == "b<|im_end|>" and example.notes == ("opener_in_tags",)


def test_encode_marks_the_end_that_tags_leave_untrained():
    """A model trained so never learns to stop; the mark is what lets an analysis say it."""
    tokenizer = with_tags("%({{ m.content }}%)<|im_end|>\n")
    example = encode(conversation("a", "b"), tokenizer)
    assert (example.method, trained_text(example, tokenizer)) == ("generation tags", "b")
    assert example.is_end.any() and not example.weights[example.is_end].any()


def test_encode_counts_the_role_opener_as_prompt():
    tokenizer = tokenizer_of("chatml")
    example = encode(conversation("question", "answer"), tokenizer)
    assert words_of(example, tokenizer, "prompt") == "<|im_start|>user\nquestion<|im_end|>\n<|im_start|>assistant\n\n"


@pytest.mark.parametrize("family", ["chatml", "llama 3", "mistral", "none"])
def test_encode_does_not_train_the_opener_of_a_conversation_that_begins_with_an_answer(family):
    """No template renders an empty conversation, so the opener before the first message cannot be a prefix."""
    tokenizer = tokenizer_of(family)
    example = encode(Record(HERE, messages=(Message("assistant", "hello"),)), tokenizer)
    assert trained_text(example, tokenizer).strip() == "hello" + FAMILIES[family][2]
    assert words_of(example, tokenizer, "response") == trained_text(example, tokenizer)


def test_encode_refuses_a_template_that_drops_earlier_thinking():
    """A part of a trained answer is not there; the row, the words and a cure that works are named."""
    tokenizer = tiny_tokenizer([], chat_template=DROPS_THINKING, special=("<|im_start|>", "<|im_end|>"))
    record = conversation("a", "<think>x</think>b", "c", "d")
    with pytest.raises(
        RowError, match=r"rows\.jsonl:1: .*reasoning of message 2 .*'x'.* a row for each answer"
    ) as caught:
        encode(record, tokenizer)
    assert caught.value.reason == "content-lost"
    assert trained_text(encode(conversation("a", "<think>x</think>b"), tokenizer), tokenizer).startswith("<think>")
    untrained = [replace(record.messages[1], weight=0.0), *record.messages[2:]]
    example = encode(Record(HERE, messages=(record.messages[0], *untrained)), tokenizer)
    assert example.notes == ("lost: reasoning of the assistant",) and trained_text(example, tokenizer) == "d<|im_end|>"


def test_encode_notes_what_the_template_loses_or_moves():
    """Mistral's shows the system text before the last user message, and here the last message is an answer."""
    tokenizer = tokenizer_of("mistral")
    example = encode(conversation("a", "b", "c", "d", system="s"), tokenizer)
    assert example.notes == ("lost: text of the system",) and trained_text(example, tokenizer) == f" b{EOS} d{EOS}"
    moving = MISTRAL.replace("loop.last", "loop.index0 == messages | length - 2")
    example = encode(conversation("a", "b", "c", "d", system="s"), tokenizer, template=moving)
    assert example.notes == ("moved",) and trained_text(example, tokenizer) == f" b{EOS} d{EOS}"
    assert words_of(example, tokenizer, "system") == "s"


def test_encode_refuses_what_the_template_refuses_with_its_words():
    template = "{% if messages[0].content == 'a' %}{{ raise_exception('Too short a question') }}{% endif %}" + CHATML
    with pytest.raises(RowError, match="Too short a question") as caught:
        encode(conversation("a", "b", "c", "d"), tokenizer_of("gemma"), template=template)
    assert caught.value.reason == "template-error"


def test_encode_writes_what_the_template_refuses_in_a_shape_that_it_takes():
    """Gemma's template has no system role and needs turns that alternate; every word keeps its role and its weight."""
    tokenizer = tokenizer_of("gemma")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"},
                {"role": "assistant", "content": "c", "weight": 0}, {"role": "assistant", "content": "d"}]  # fmt: skip
    example = encode(next(iter(read_records([{"messages": messages}]))), tokenizer)
    assert [note.partition(":")[0] for note in example.notes] == ["adapted"]
    assert "s\n\na\n\nb<end_of_turn>" in tokenizer.decode(example.input_ids)
    assert words_of(example, tokenizer, "system") == "s"
    assert trained_text(example, tokenizer) == "\n\nd<end_of_turn>"


def test_encode_trains_the_token_in_which_an_answer_melts_into_its_opener():
    """With a merge of two newlines the answer's first character joins the opener; the token holds its words."""
    tokenizer = tiny_tokenizer(["x\n\n\ny"] * 9, chat_template=CHATML, special=("<|im_start|>", "<|im_end|>"))
    example = encode(conversation("a", "\n\nb"), tokenizer)
    assert trained_text(example, tokenizer) == "\n\n\nb<|im_end|>"


def test_encode_refuses_an_answer_that_is_not_opened_like_a_prompt():
    """Where the answer begins is unknown, and training a guess is what this must never do."""
    template = CHATML.replace(
        "<|im_start|>{{ m.role }}\n", "{% if loop.index0 == 1 %}({% else %}<|im_start|>{{ m.role }}\n{% endif %}"
    )
    tokenizer = tiny_tokenizer([], chat_template=template, special=("<|im_start|>", "<|im_end|>"))
    with pytest.raises(RowError, match="answer 2 is opened by") as caught:
        encode(conversation("a", "b", "c", "d"), tokenizer)
    assert caught.value.reason == "prefix-broken"


def test_encode_takes_weights_from_messages_and_row():
    tokenizer = tokenizer_of("chatml")
    messages = (
        Message("user", "u", weight=0.25),
        Message("assistant", "a", weight=0.0),
        Message("user", "v"),
        Message("assistant", "b", weight=0.5),
    )
    example = encode(Record(HERE, messages=messages, weight=2.0), tokenizer)
    at = {weight: tokenizer.decode(example.input_ids[example.weights == weight]) for weight in (0.5, 1.0)}
    # A weight of a user's turn trains its own words and its end; the header is the template's.
    assert at == {0.5: "u<|im_end|>", 1.0: "b<|im_end|>"}
    assert "a<|im_end|>" in words_of(example, tokenizer, "response")


def test_encode_refuses_a_row_without_anything_to_train():
    tokenizer = tokenizer_of("chatml")
    with pytest.raises(RowError) as caught:
        encode(Record(HERE, messages=(Message("user", "alone"),)), tokenizer)
    assert caught.value.reason == "nothing-trained"


def test_encode_counts_what_truncation_cuts_and_refuses_when_no_answer_is_left():
    tokenizer = tokenizer_of("chatml")
    record = conversation("question", "a long answer")
    whole = encode(record, tokenizer)
    cut = encode(record, tokenizer, max_length=len(whole.input_ids) - 6)
    assert (cut.truncated, len(cut.input_ids) + cut.truncated) == (6, len(whole.input_ids))
    assert not cut.is_end[cut.weights > 0].any() and cut.prompts == whole.prompts
    with pytest.raises(RowError) as caught:
        encode(record, tokenizer, max_length=10)
    assert caught.value.reason == "truncated-away"


def test_the_prompt_of_an_answer_is_everything_before_it():
    """Two conversations that open alike share their first prompt, whatever follows."""
    tokenizer = tokenizer_of("chatml")
    ab, ac, xb, abcd, abce, aecd = (
        encode(conversation(*turns), tokenizer).prompts for turns in ("ab", "ac", "xb", "abcd", "abce", "aecd")
    )
    assert ab == ac == abcd[:1] == aecd[:1] and ab != xb
    assert abcd == abce and abcd[1] != aecd[1] and len(abcd) == 2
    assert ab == encode(conversation("a", "z"), tokenizer).prompts and 0 < ab[0] < 2**63


def test_a_text_has_no_prompt_and_a_cut_answer_keeps_its_own():
    tokenizer = tiny_tokenizer([])
    assert encode(Record(HERE, text="hello"), tokenizer).prompts == (0,)
    assert encode(Record(HERE, tokens={"input_ids": [5, 6, 7]}), tokenizer).prompts == (0,)
    assert encode(Record(HERE, tokens={"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}), tokenizer).prompts == (0,)
    cut = encode(conversation("a", "b", "c", "d"), tokenizer_of("chatml"), max_length=24)
    assert len(cut.prompts) == 1 and cut.truncated


def test_answers_are_stretches_of_response_tokens_up_to_their_ends():
    tokenizer = tokenizer_of("chatml")
    example = encode(conversation("a", "bee", "c", "dog"), tokenizer)
    words = [tokenizer.decode(example.input_ids[a:b]) for a, b in answer_spans(example)]
    assert words == ["bee<|im_end|>", "dog<|im_end|>"]
    ends = torch.tensor([0, 0, 1, 1, 0, 1, 0]).bool()  # two end tokens in a row belong to the answer before them
    row = Example(torch.arange(7), torch.ones(7, dtype=torch.int8), torch.ones(7), ends, HERE)
    assert answer_spans(row) == [(1, 4), (4, 6), (6, 7)]


def test_encode_never_starts_with_two_bos():
    tokenizer = tiny_tokenizer([], prepend_bos=True)
    once = encode(Record(HERE, text="hello"), tokenizer)
    twice = encode(Record(HERE, text=f"{BOS}hello"), tokenizer)
    assert (
        torch.equal(once.input_ids, twice.input_ids) and once.input_ids[:2].tolist().count(tokenizer.bos_token_id) == 1
    )
    assert (once.notes, twice.notes) == ((), ("double_bos",))
    headings = encode(conversation("a", "b"), tokenizer)
    assert headings.input_ids.tolist().count(tokenizer.bos_token_id) == 1


def test_encode_trains_a_text_whole_and_ends_it():
    tokenizer = tiny_tokenizer([])
    example = encode(Record(HERE, text="hello"), tokenizer)
    assert trained_text(example, tokenizer) == "ello" + EOS  # the first token is not predicted
    assert example.is_end.tolist() == [False] * 5 + [True] and example.method == "plain text"
    assert torch.equal(example.input_ids, encode(Record(HERE, text="hello" + EOS), tokenizer).input_ids)


def test_encode_takes_pre_tokenised_rows_as_they_are():
    tokenizer = tiny_tokenizer([])
    tokens = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
    example = encode(Record(HERE, tokens=tokens), tokenizer)
    assert example.weights.tolist() == [0, 0, 1, 1]
    assert example.roles.tolist() == [ROLES.index("unknown")] * 4 and example.notes == ("roles_unknown",)
    assert answer_spans(example) == [(2, 4)]  # what is trained is what there is to measure
    weighted = encode(
        Record(HERE, tokens={**tokens, "weights": [9, 9, 0.5, 2], "roles": ["system", 0, 1, 1]}), tokenizer
    )
    assert weighted.weights.tolist() == [0, 0, 0.5, 2] and weighted.roles.tolist() == [2, 0, 1, 1]
    assert weighted.prompts == example.prompts == (example.prompts[0],)


@pytest.mark.parametrize("family", ["chatml", "llama 3", "none"])
def test_roles_of_token_ids_and_texts_come_from_the_turns_in_them(family):
    """Labels that train the user too do not make the user's words an answer."""
    tokenizer = tokenizer_of(family)
    whole = encode(conversation("a question", "an answer", "and", "so on"), tokenizer)
    ids = whole.input_ids.tolist()
    row = encode(Record(HERE, tokens={"input_ids": ids, "labels": [-100, *ids[1:-1], -100]}), tokenizer)
    # a line break that is trained with the end before it counts as a part of the answer
    assert words_of(row, tokenizer, "response").replace("\n", "") == words_of(whole, tokenizer, "response")
    text = encode(Record(HERE, text=tokenizer.decode(ids)), tokenizer)
    assert "a question" in words_of(text, tokenizer, "prompt") and "an answer" in words_of(text, tokenizer, "response")


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ({"input_ids": [5, 6, 7], "labels": [6, 7, -100]}, "bad-tokens"),
        ({"input_ids": [5, 6, 7], "labels": [5, 6]}, "bad-tokens"),
        ({"input_ids": [5, 6, 7], "roles": [0, 1, 7]}, "bad-tokens"),
        ({"input_ids": [5, 6, 7], "labels": [-100] * 3}, "nothing-trained"),
        ({"input_ids": [5, 6, 7], "labels": [5, -100, -100]}, "nothing-trained"),
        ({"input_ids": [5, 6, 7], "seq_lengths": [2, 1]}, "bad-tokens"),
        ({"input_ids": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1]}, "bad-tokens"),
        ({"input_ids": [5]}, "too-short"),
    ],
)
def test_encode_refuses_pre_tokenised_rows_that_cannot_be_right(tokens, reason):
    with pytest.raises(RowError) as caught:
        encode(Record(HERE, tokens=tokens), tiny_tokenizer([]))
    assert caught.value.reason == reason and reason in ROW_REASONS


def test_encode_refuses_a_length_that_leaves_nothing_to_predict():
    with pytest.raises(ValueError, match="encode: max_length"):
        encode(conversation("a", "b"), tokenizer_of("chatml"), max_length=1)


def test_an_end_that_the_answer_brings_is_not_written_twice():
    tokenizer = tokenizer_of("chatml")
    assert trained_text(encode(conversation("a", "b<|im_end|>\n"), tokenizer), tokenizer) == "b<|im_end|>"
    assert trained_text(encode(conversation("a", "b <|im_start|>"), tokenizer), tokenizer) == "b <|im_start|><|im_end|>"


def test_examples_count_the_rows_they_refuse():
    tokenizer = tokenizer_of("gemma")
    first = Record(HERE, messages=(Message("assistant", "s"), *conversation("a", "b").messages))
    rows = [conversation("a", "b"), first, conversation("c", "d")]
    examples = Examples(rows, tokenizer)
    assert len(list(examples)) == 2
    assert examples.account.refused == {"template-error": 1} and examples.account.rows == 3
    with pytest.raises(RowError):
        list(Examples(read_records(rows, on_error="raise"), tokenizer))


def test_encode_keeps_the_end_of_a_row_where_it_cuts_the_start():
    tokenizer = tokenizer_of("chatml")
    record = conversation("question", "a long answer")
    whole, cut = (encode(record, tokenizer, **how) for how in ({}, {"max_length": 8, "truncate": "start"}))
    assert torch.equal(cut.input_ids, whole.input_ids[-8:]) and cut.truncated == len(whole.input_ids) - 8
    assert bool(cut.is_end[cut.weights > 0][-1]) and not cut.weights[0]


@pytest.mark.parametrize("as_field", [True, False])
def test_encode_weighs_the_reasoning_of_an_answer(as_field):
    tokenizer = tokenizer_of("chatml")
    answer = (
        Message("assistant", "a", reasoning="why") if as_field else Message("assistant", "<think>\nwhy\n</think>\n\na")
    )
    record = Record(HERE, messages=(Message("user", "q"), answer))
    half = encode(record, tokenizer, think_weight=0.5)
    assert tokenizer.decode(half.input_ids[half.weights == 0.5]) == "<think>\nwhy\n</think>\n\n"
    assert trained_text(encode(record, tokenizer, think_weight=0), tokenizer) == "a<|im_end|>"
    dropped = tokenizer.decode(encode(record, tokenizer, thinking="drop").input_ids)
    assert dropped == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"


def test_an_answer_that_is_cut_off_while_it_thinks_is_reasoning_to_its_end():
    tokenizer = tokenizer_of("chatml")
    unclosed = Record(HERE, messages=(Message("user", "q"), Message("assistant", "<think>\nwhy")))
    for how in ({"thinking": "drop"}, {"think_weight": 0}):
        with pytest.raises(RowError, match="is all reasoning|no token has a weight"):
            encode(unclosed, tokenizer, **how)
    half = encode(unclosed, tokenizer, think_weight=0.5)
    assert tokenizer.decode(half.input_ids[half.weights == 0.5]) == "<think>\nwhy<|im_end|>"
    told = Record(HERE, messages=(*unclosed.messages, Message("user", "q"), Message("assistant", "a <think> is a tag")))
    told = replace(told, messages=(told.messages[0], replace(told.messages[1], weight=0.0), *told.messages[2:]))
    dropped = encode(told, tokenizer, thinking="drop")
    assert trained_text(dropped, tokenizer) == "a <think> is a tag<|im_end|>"
    assert "why" not in tokenizer.decode(dropped.input_ids)


def test_a_template_gets_the_variables_of_the_row_over_those_of_the_option():
    template = "{{ mode }}" + CHATML
    tokenizer = tiny_tokenizer([], chat_template=template, special=("<|im_start|>", "<|im_end|>"))
    rows = [{"prompt": "q", "response": "a", "chat_template_kwargs": kwargs} for kwargs in ({"mode": "M"}, None)]
    examples = Examples(read_records(rows), tokenizer, chat_template_kwargs={"mode": "N"})
    assert [tokenizer.decode(example.input_ids)[0] for example in examples] == ["M", "N"]
    with pytest.raises(ConfigError, match="messages is no variable"):
        Examples(rows, tokenizer, chat_template_kwargs={"messages": []})


def test_the_cost_of_a_row_is_linear_in_its_messages(monkeypatch):
    """Two renderings of the whole row, however many messages it has; the rest are of a few words."""
    tokenizer, sizes = tokenizer_of("chatml"), []
    apply = tokenizer.apply_chat_template
    counted = lambda messages, **how: sizes.append(len(messages)) or apply(messages, **how)  # noqa: E731
    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    encode(conversation(*"ab" * 200), tokenizer)
    assert sum(size == 400 for size in sizes) == 2 and sum(sizes) < 900


@pytest.mark.parametrize("family", ["chatml", "llama 3", "gemma", "none"])
def test_words_are_looked_for_where_marks_cannot_be_set(family):
    """The conversation uses code points of every block of marks, or the template looks at what is marked."""
    taken = "".join(map(chr, (0xFDD0, 0xFFF80, 0x10FF80)))
    tokenizer = tokenizer_of(family)
    example = encode(conversation("user", f"assistant {taken}", "assistant", "user"), tokenizer)
    end = FAMILIES[family][2]
    assert trained_text(example, tokenizer) == f"assistant {taken}{end}user{end}"
    looking = CHATML.replace("{{ m.content }}", "{{ 'Q: ' if m.content[:4] == 'user' }}{{ m.content }}")
    example = encode(conversation("user", "assistant", "a", "user"), tokenizer_of("chatml"), template=looking)
    assert trained_text(example, tokenizer_of("chatml")) == "assistant<|im_end|>Q: user<|im_end|>"


def test_a_weight_for_reasoning_that_no_row_has_is_reported():
    tokenizer = tiny_tokenizer([], chat_template=CHATML, special=("<|im_start|>", "<|im_end|>"))
    rows = [{"prompt": "q", "response": "a"}, {"prompt": "q", "response": "<think>\nwhy\n</think>\n\na"}, {"text": "t"}]

    def reported(rows, **how):
        examples = Examples(rows, tokenizer, **how)
        assert list(examples)
        return [finding.id for finding in findings_of(NOTE_RULES, examples.account)]

    assert reported([rows[0], rows[2]], think_weight=0.3) == ["DATA115"]
    assert reported(rows, think_weight=0.3) == [] == reported(rows[:1])


def test_a_cure_names_the_first_words_that_the_template_writes_otherwise():
    template = CHATML.replace("m.content", "m.content | replace('colour', 'color')")
    with pytest.raises(RowError, match="as the template does, in message 2 'color here' in place of 'colour here'"):
        encode(conversation("a", "the colour here"), tokenizer_of("chatml"), template=template)


@pytest.mark.parametrize("weight", [-1.0, 1.0])
def test_an_answer_marked_as_wrong_is_trained_text_that_a_template_must_not_lose(weight):
    """Only an untrained answer may lose words: what is marked as wrong trains too, towards a lower probability."""
    messages = (
        Message("user", "q"),
        Message("assistant", "a b c", weight),
        Message("user", "r"),
        Message("assistant", "d"),
    )
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content[:1] }}{% endfor %}"
    with pytest.raises(RowError, match="a part of a trained answer"):
        encode(Record(HERE, messages=messages), tokenizer_of("chatml"), template=template)
