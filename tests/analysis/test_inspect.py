"""Every planted fault is found by its id with its count, and a clean set raises nothing."""

from __future__ import annotations

import json
from array import array
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import BOS, EOS, PAD, tiny_tokenizer

from sftloss.analysis.mask.audit import audit
from sftloss.analysis.mask.inspect import InspectOptions, inspect_records
from sftloss.analysis.mask.rules import INSPECT_RULES
from sftloss.analysis.mask.tally import MaskTally
from sftloss.data import account, encode, read_records
from sftloss.data.rendering.scaffold import scaffold_of
from sftloss.data.rendering.template import Template
from sftloss.document import Document, Finding
from sftloss.errors import DataError
from sftloss.roles import PROMPT, RESPONSE, SYSTEM

OPENER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + OPENER


def tagged(assistant: str) -> str:
    """ChatML in which an assistant's message is written as told."""
    other = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    # the renderer drops a line break right after a block
    assistant = assistant.replace("%}\n", "%}{{ '\n' }}")
    turn = "{% if m.role == 'assistant' %}" + assistant + "{% else %}" + other + "{% endif %}"
    return "{% for m in messages %}" + turn + "{% endfor %}" + OPENER


TAGGED = tagged("<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n")
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>", "[INST]", "[/INST]")
WORDS = ("apple", "pear", "plum", "fig", "lime", "melon", "lemon", "peach", "date", "mango", "kiwi", "grape")


@lru_cache
def tokenizer_of(template: str | None = TAGGED, *, pad_is_end: bool = False, prepend_bos: bool = False) -> Any:
    tokenizer = tiny_tokenizer(
        [], vocab_size=300, chat_template=template, special=SPECIAL, bos=True, prepend_bos=prepend_bos
    )
    if pad_is_end:
        tokenizer.pad_token = EOS
    return tokenizer


def pair(i: int, *, answer: str | None = None) -> dict[str, Any]:
    """A clean row; no two are alike."""
    word = WORDS[i % len(WORDS)]
    said = f"It is {word} {i}." if answer is None else answer
    return {"messages": [{"role": "user", "content": f"say {word} {i}"}, {"role": "assistant", "content": said}]}


def inspected(rows: list[Any], tokenizer: Any = None, **options: Any) -> Document:
    records = read_records(rows, on_error="count")
    kept = {"max_length": options.pop("max_length", None)}
    return inspect_records(records, tokenizer or tokenizer_of(), InspectOptions(**options), **kept)


def found(rows: list[Any], tokenizer: Any = None, **options: Any) -> dict[str, Finding]:
    return {finding.id: finding for finding in inspected(rows, tokenizer, **options).findings}


def asking(findings: dict[str, Finding]) -> set[str]:
    return {id for id, finding in findings.items() if finding.severity != "info"}


CLEAN = [pair(i) for i in range(12)]


def parts(tokenizer: Any, i: int = 0) -> tuple[list[int], list[int], list[int]]:
    """A pre-tokenised conversation in three: up to the opener, the opener, the answer with its end."""
    word = WORDS[i % len(WORDS)]
    ask = tokenizer(f"<|im_start|>user\nsay {word} {i}<|im_end|>\n", add_special_tokens=False).input_ids
    opener = tokenizer("<|im_start|>assistant\n", add_special_tokens=False).input_ids
    answer = tokenizer(f"It is {word} {i}.<|im_end|>", add_special_tokens=False).input_ids
    return ask, opener, answer


def labelled(ids: list[int], trained: range) -> dict[str, Any]:
    return {"input_ids": ids, "labels": [token if i in trained else -100 for i, token in enumerate(ids)]}


def rows_of(count: int, change: Any) -> list[dict[str, Any]]:
    """Ten pre-tokenised rows, the first `count` of them as `change` makes them from their three parts."""
    rows = []
    for i in range(10):
        ask, opener, answer = parts(tokenizer_of(), i)
        start = len(ask) + len(opener)
        ids = ask + opener + answer
        rows.append(change(ask, opener, answer) if i < count else labelled(ids, range(start, len(ids))))
    return rows


@pytest.mark.parametrize("template", [TAGGED, CHATML, LLAMA3, MISTRAL, None], ids=lambda t: str(t)[:20])
def test_inspection_of_a_clean_set_asks_for_nothing(template):
    """Notes may be there (a template without tags), warnings may not."""
    assert not asking(found(CLEAN, tokenizer_of(template)))


def test_inspection_of_clean_pre_tokenised_rows_asks_for_nothing():
    assert not found(rows_of(0, None))


@pytest.mark.parametrize(
    ("template", "openers"),
    [
        (TAGGED, {"<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_start|>system\n"}),
        (CHATML, {"<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_start|>system\n"}),
        (LLAMA3, {f"<|start|>{role}<|stop|>\n\n" for role in ("user", "assistant", "system")}),
        (MISTRAL, {"[INST] ", " [/INST] "}),
        (None, {"### User:\n", "### Assistant:\n", "### System:\n"}),
    ],
    ids=["tagged", "chatml", "llama 3", "mistral", "none"],
)
def test_scaffold_learns_the_openers_of_a_template(template, openers):
    tokenizer = tokenizer_of(template)
    scaffold = scaffold_of(Template(tokenizer))
    assert {tokenizer.decode(list(ids)) for _, ids in scaffold.openers} == openers


def test_scaffold_finds_whose_words_stand_where():
    tokenizer = tokenizer_of()
    text = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    turns = scaffold_of(Template(tokenizer)).turns(ids)
    assert [turn.role for turn in turns] == [SYSTEM, PROMPT, RESPONSE]
    assert tokenizer.decode(ids[turns[2].start : turns[2].stop]) == "yes<|im_end|>"


def test_mask001_is_rows_whose_labels_are_all_ignored():
    finding = found(rows_of(3, lambda a, o, r: labelled(a + o + r, range(0))))["MASK001"]
    assert (finding.value, finding.severity) == (0.3, "warning")
    assert finding.rows == ("row 0", "row 1", "row 2")


def test_mask001_is_an_error_where_most_rows_train_nothing():
    assert found(rows_of(6, lambda a, o, r: labelled(a + o + r, range(0))))["MASK001"].severity == "error"


def test_mask002_is_a_template_whose_tags_give_no_mask():
    # the tags stand in a branch that no message takes
    template = CHATML + "{% if messages[0].role == 'nobody' %}{% generation %}{% endgeneration %}{% endif %}"
    findings = found(CLEAN, tokenizer_of(template))
    assert findings["MASK002"].value == 1.0 and findings["MASK002"].severity == "error"


def test_mask002_is_a_note_where_a_template_without_tags_is_read_by_prefixes():
    assert found(CLEAN, tokenizer_of(CHATML))["MASK002"].severity == "info"


def test_mask003_is_an_answer_whose_end_stays_outside_the_tags():
    template = tagged("<|im_start|>assistant\n{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n")
    finding = found(CLEAN, tokenizer_of(template))["MASK003"]
    assert finding.value == 1.0 and "no end is trained at all" in finding.sentence


def test_mask003_is_labels_that_stop_before_the_end():
    rows = rows_of(4, lambda a, o, r: labelled(a + o + r, range(len(a + o), len(a + o + r) - 1)))
    findings = found(rows)
    assert findings["MASK003"].value == 0.4 and asking(findings) == {"MASK003"}


def test_mask003_is_an_answer_that_has_no_end():
    rows = rows_of(2, lambda a, o, r: labelled(a + o + r[:-1], range(len(a + o), len(a + o + r) - 1)))
    assert found(rows)["MASK003"].value == 0.2


def test_mask004_is_labels_that_start_a_token_late():
    rows = rows_of(5, lambda a, o, r: labelled(a + o + r, range(len(a + o) + 1, len(a + o + r))))
    findings = found(rows)
    assert findings["MASK004"].value == 0.5 and asking(findings) == {"MASK004"}


def test_mask005_is_labels_that_cover_the_opener():
    rows = rows_of(2, lambda a, o, r: labelled(a + o + r, range(len(a), len(a + o + r))))
    findings = found(rows)
    assert findings["MASK005"].value == 0.2 and asking(findings) == {"MASK005"}


def test_mask005_is_tags_that_enclose_the_opener():
    template = tagged("{% generation %}<|im_start|>assistant\n{{ m.content }}<|im_end|>{% endgeneration %}\n")
    findings = found(CLEAN, tokenizer_of(template))
    assert findings["MASK005"].value == 1.0 and asking(findings) == {"MASK005"}


def test_mask006_is_a_template_that_opens_an_answer_otherwise_than_a_prompt():
    opener = "{% if loop.index0 == 1 and not loop.last %}({% else %}<|im_start|>{{ m.role }}\n{% endif %}"
    turns = [*pair(1)["messages"], *pair(2)["messages"]]
    tokenizer = tokenizer_of(CHATML.replace("<|im_start|>{{ m.role }}\n", opener))
    findings = found([*CLEAN[:9], {"messages": turns}], tokenizer)
    assert findings["MASK006"].value == 0.1 and findings["MASK006"].rows == ("row 9",)


def test_data055_is_a_template_that_drops_words_of_an_answer():
    dropping = CHATML.replace("{{ m.content }}", "{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}")
    turns = [*pair(1)["messages"], *pair(2)["messages"]]
    findings = found([*CLEAN[:9], {"messages": turns}], tokenizer_of(dropping))
    assert findings["DATA055"].rows == ("row 9",) and findings["DATA055"].severity == "error"
    assert "a row for each answer" in findings["DATA055"].sentence


def test_data109_is_words_of_a_prompt_that_the_template_does_not_show():
    silent = CHATML.replace("{{ m.content }}", "{{ '' if m.role == 'system' else m.content }}")
    rows = [{"messages": [{"role": "system", "content": "be kind"}, *pair(1)["messages"]]}]
    finding = found([*CLEAN[:9], *rows], tokenizer_of(silent))["DATA109"]
    assert (finding.severity, finding.rows) == ("warning", ("row 9",)) and "text of the system" in finding.sentence


def test_mask011_and_data110_are_notes_of_what_is_rendered_otherwise():
    thinking = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    calls = [{"function": {"name": "rain", "arguments": {"town": "Bonn"}}}]
    rows = [{"messages": [pair(1)["messages"][0], {"role": "assistant", "content": "", "tool_calls": calls}]}]
    findings = found([*CLEAN[:9], *rows], tokenizer_of(thinking))
    assert findings["MASK011"].severity == findings["DATA110"].severity == "info"
    assert "'<think>'" in findings["MASK011"].sentence and findings["DATA110"].rows == ("row 9",)


def test_mask007_is_what_truncation_takes():
    long, longer = pair(1, answer="a" * 60), pair(2)
    longer["messages"][0]["content"] = "b" * 90
    finding = found([*CLEAN[:8], long, longer], max_length=60)["MASK007"]
    assert finding.value == 0.2 and finding.severity == "warning"
    assert (
        "1 loses every trained token" in finding.sentence and "1 loses the end of their last answer" in finding.sentence
    )
    assert finding.rows == ("row 9", "row 8")


def test_mask003_is_not_raised_for_an_end_that_truncation_took():
    assert "MASK003" not in found([*CLEAN, pair(1, answer="a" * 60)], max_length=60)


def test_mask008_is_an_end_masked_as_padding():
    tokenizer = tokenizer_of(pad_is_end=True)
    eos = tokenizer.eos_token_id

    def padded(ask, opener, answer):
        ids = ask + opener + answer[:-1]
        return labelled([*ids, eos, eos, eos], range(len(ask + opener), len(ids)))

    findings = found(rows_of(3, padded), tokenizer)
    assert findings["MASK008"].value == 0.3 and asking(findings) == {"MASK008"}


def test_mask008_is_a_note_where_padding_is_the_end_and_the_end_is_trained():
    assert found(CLEAN, tokenizer_of(MISTRAL, pad_is_end=True))["MASK008"].severity == "info"


def test_mask009_is_two_beginnings():
    rows = [{"text": f"{BOS}once {word}"} for word in WORDS[:3]] + [{"text": f"once {word}"} for word in WORDS[3:]]
    finding = found(rows, tokenizer_of(prepend_bos=True))["MASK009"]
    assert finding.value == 3 / 12


def test_mask010_is_labels_that_cover_the_user():
    findings = found(rows_of(2, lambda a, o, r: labelled(a + o + r, range(len(a + o + r)))))
    assert findings["MASK010"].value == 0.2 and findings["MASK010"].severity == "warning"
    assert asking(findings) == {"MASK005", "MASK010"}


def test_mask010_is_a_text_with_a_users_words():
    text = "<|im_start|>user\nhi {}<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
    assert found([{"text": text.format(word)} for word in WORDS])["MASK010"].value == 1.0


def test_mask010_is_a_note_where_the_data_asks_for_it():
    rows = [pair(i) for i in range(4)]
    rows[0]["messages"][0]["weight"] = 1.0
    finding = found(rows, tokenizer_of(CHATML))["MASK010"]
    assert (finding.severity, finding.value) == ("info", 0.25)


def test_line_break_trained_after_an_end_is_no_fault():
    break_ = tokenizer_of()("\n", add_special_tokens=False).input_ids
    rows = rows_of(10, lambda a, o, r: labelled(a + o + r + break_, range(len(a + o), len(a + o + r) + 1)))
    assert not found(rows)


def test_rows_that_cannot_be_read_are_findings_by_reason():
    rows = [*CLEAN, {"messages": []}, {"nothing": 1}, {"nothing": 2}, 3, pair(0, answer="")]
    findings = found(rows)
    counts = {id: round(f.value * len(rows)) for id, f in findings.items() if id.startswith("DATA0")}
    assert counts == {"DATA010": 1, "DATA009": 2, "DATA005": 1, "DATA015": 1}


def test_rows_that_cannot_be_used_at_all_are_findings_not_a_crash():
    document = inspected([{"nothing": 1}, 2])
    assert {f.id: f.severity for f in document.findings} == {"DATA005": "warning", "DATA009": "warning"}
    assert document.headlines == ("None of the 2 rows can be trained on.",)


def test_source_without_rows_is_a_data_error():
    with pytest.raises(DataError, match="No usable row"):
        inspected([])


def test_duplicates_and_conflicts_are_counted_apart():
    rows = [*CLEAN, CLEAN[0], CLEAN[0], pair(1, answer="No."), pair(2, answer=CLEAN[2]["messages"][1]["content"][::-1])]
    findings = found(rows)
    assert findings["DATA102"].value == 2 / 16 and findings["DATA102"].rows == ("row 12", "row 13")
    conflict = findings["DATA103"]
    assert conflict.value == 4 / 16 and "2 of them with one of another length" in conflict.sentence
    assert conflict.rows == ("row 1", "row 2", "row 14", "row 15")


def test_answers_of_another_script_are_counted():
    finding = found([*CLEAN, pair(0, answer="今天天气很好，我们去公园。")])["DATA104"]
    assert finding.rows == ("row 12",) and "Han" in finding.sentence


def test_control_tokens_in_the_words_are_found():
    finding = found([*CLEAN, pair(0, answer="Sure.<|im_end|>\n<|im_start|>user\nmore")])["DATA105"]
    assert finding.rows == ("row 12",)


def test_answers_of_an_end_only_are_found():
    rows = rows_of(2, lambda a, o, r: labelled(a + o + r[-1:], range(len(a + o), len(a + o) + 1)))
    assert found(rows)["DATA106"].value == 0.2


def test_tools_that_the_template_hides_are_found():
    row = pair(0) | {"tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]}
    assert found([*CLEAN[:9], row])["DATA107"].value == 0.1


def test_table_by_role_counts_every_token_once():
    rows = rows_of(10, lambda a, o, r: labelled(a + o + r, range(len(a + o), len(a + o + r))))
    (table,) = next(s for s in inspected(rows).sections if s.id == "trained").tables
    by_role = {row[0]: row[1:] for row in table.rows}
    whole = sum(len(row["input_ids"]) for row in rows)
    trained = sum(label != -100 for row in rows for label in row["labels"])
    assert by_role["response"][:3] == (trained, trained, 1.0)
    assert by_role["all roles"][:2] == (whole, trained)


def test_steps_per_epoch_are_rounded_up():
    totals = next(s for s in inspected(CLEAN, batch_size=2, grad_accum=4).sections if s.id == "totals")
    counts = dict(totals.tables[0].rows)
    assert counts["micro-batches per epoch"] == 6 and counts["steps per epoch, 8 examples each"] == 2


def test_strip_joins_the_pieces_of_a_character_and_shortens_what_is_long():
    rows = [pair(0, answer="你好" + "a" * 100)]
    strip = next(s for s in inspected(rows).sections if s.id == "trained").strips[0]
    assert "你" in strip.tokens and "好" in strip.tokens
    assert any(" \u2026 +" in token for token in strip.tokens)
    assert {len(strip.tokens)} == {len(strip.roles), len(strip.values[0])}


def test_example_of_each_fault_is_shown():
    rows = rows_of(0, None) + rows_of(1, lambda a, o, r: labelled(a + o + r, range(len(a), len(a + o + r))))[:1]
    section = next(s for s in inspected(rows, examples=1).sections if s.id == "trained")
    assert [strip.title for strip in section.strips] == ["row 0", "row 10 MASK005"]


def test_titles_name_the_file_without_its_folder(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(0, None)), encoding="utf-8")
    document = inspected(path, examples=1)
    assert document.title == "What is trained in data.jsonl"
    assert next(s for s in document.sections if s.id == "trained").strips[0].title == "data.jsonl:1"


def test_inspection_is_the_same_twice():
    assert inspected(CLEAN) == inspected(CLEAN)


def test_pad_token_is_not_taken_for_an_end():
    """A row padded with the padding token, which is no end, has an untrained end only if it has none trained."""
    pad = tokenizer_of().convert_tokens_to_ids(PAD)
    rows = rows_of(10, lambda a, o, r: labelled(a + o + r + [pad, pad], range(len(a + o), len(a + o + r))))
    assert not found(rows)


def test_scaffold_is_not_misled_by_a_thought_in_front_of_the_last_answer():
    thinking = TAGGED.replace("{% generation %}", "{% generation %}{% if loop.last %}<think></think>{% endif %}")
    tokenizer = tokenizer_of(thinking)
    opener = next(ids for role, ids in scaffold_of(Template(tokenizer)).openers if role == RESPONSE)
    assert tokenizer.decode(list(opener)) == "<|im_start|>assistant\n"


def test_answers_whose_opener_is_not_recognised_are_not_taken_for_the_users():
    def otherwise(ask, opener, answer):
        # another name for the assistant than the template's
        other = tokenizer_of()("<|im_start|>model\n", add_special_tokens=False).input_ids
        return labelled(ask + other + answer, range(len(ask + other), len(ask + other + answer)))

    assert asking(found(rows_of(10, otherwise))) == {"MASK012"}
    two = rows_of(1, otherwise)[0]
    ask, opener, answer = parts(tokenizer_of(), 5)
    tail = labelled(ask + opener + answer, range(len(ask + opener), len(ask + opener + answer)))
    assert not found([{name: two[name] + tail[name] for name in two}])


def test_every_finding_of_an_inspection_is_in_its_page():
    page = (Path(__file__).parents[2] / "docs" / "findings.md").read_text("utf-8")
    ids = {rule.id for rule in (*account.ROW_RULES, *INSPECT_RULES)}
    spans = {f"DATA{i:03d}" for low, high in ((1, 20), (54, 57)) for i in range(low, high + 1)}
    assert spans < ids and not [i for i in ids if f"| {i} |" not in page]


def test_ledger_grows_by_machine_numbers_only():
    """What is kept of a row is an entry of each array; everything else is bounded by the number of kinds."""
    records = read_records([pair(i) for i in range(40)])
    tally = MaskTally()
    tokenizer = tokenizer_of()
    scaffold = scaffold_of(Template(tokenizer))
    for record in records:
        example = encode(record, tokenizer)
        tally.add(record, example, audit(example, record, scaffold))
    ledger = tally.ledger
    arrays = [value for value in vars(ledger).values() if isinstance(value, array)]
    assert {len(values) for values in arrays} == {40}
    assert sum(values.itemsize for values in arrays) == 64
    assert len(ledger.paths) == 1 and not tally.faults.origins


def test_only_the_first_places_of_a_fault_are_kept():
    rows = [labelled(a + o + r, range(0)) for a, o, r in (parts(tokenizer_of(), i) for i in range(30))]
    finding = found([*rows, *CLEAN])["MASK001"]
    assert len(finding.rows) == 10 and finding.value == 30 / 42


def test_texts_share_no_prompt():
    """A text has none: that all of them begin with nothing makes no conflict."""
    assert "DATA103" not in found([{"text": f"once {word}"} for word in WORDS])


def test_weights_that_differ_are_in_a_table():
    rows = [CLEAN[0], CLEAN[1] | {"weight": 2}, CLEAN[2] | {"weight": 2}]
    (table,) = (one for one in inspected(rows).sections[1].tables if one.id == "by-weight")
    weights, tokens, of_tokens, of_weight = zip(*table.rows, strict=True)
    assert weights == (1.0, 2.0) and tokens[0] + tokens[1] == sum(tokens)
    assert of_weight[1] == pytest.approx(2 * tokens[1] / (tokens[0] + 2 * tokens[1]))
    assert [one.id for one in inspected(CLEAN[:3]).sections[1].tables] == ["by-role"]
