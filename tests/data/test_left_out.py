"""What of a file is not trained as it stands is reported: halves of preferences, placeholders, rows too long, leaks."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from tests.tiny import tiny_tokenizer

import sftloss
from sftloss.data import Examples, read_records
from sftloss.data.account import ROW_RULES
from sftloss.data.demo import demo_tokenizer
from sftloss.data.overlap import overlap, overlap_findings, refuse_leak
from sftloss.data.rendering import limits, template
from sftloss.errors import DataError
from sftloss.rules import findings_of

PAIR = {"prompt": "2 + 2?", "response": "4"}


def answers(rows, **how) -> list[str]:
    return [record.messages[-1].content for record in read_records(rows, **how)]


def refused(rows, **how) -> dict[str, int]:
    records = read_records(rows, on_error="count", **how)
    list(records)
    return records.account.refused


def found(rows, tokenizer=None, **how):
    examples = Examples(read_records(rows, on_error="count"), tokenizer or tiny_tokenizer([]), **how)
    list(examples)
    return {finding.id: finding for finding in findings_of(ROW_RULES, examples.account)}


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t"), ("csv.gz", ",")])
def test_tables_of_text_are_read(tmp_path, suffix, delimiter):
    lines = ("prompt;response;weight", '"a; ""b""\nc";d;0.5', "e;f;")
    text = "\n".join(lines).replace(";", delimiter)
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode("utf-8-sig"))
    first, second = read_records(path)
    assert first.messages[0].content == f'a{delimiter} "b"\nc' and first.weight == 0.5
    assert (second.messages[1].content, second.weight, str(second.origin)) == ("f", 1.0, f"{path}:4")


def test_a_row_with_too_many_cells_is_refused_and_a_broken_quote_ends_the_reading(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response\na,b\nc,d,e\n")
    assert refused(tmp_path / "a.csv") == {"unknown-shape": 1}
    (tmp_path / "b.csv").write_text('prompt,response\na,b\n"c,d\n')
    with pytest.raises(DataError, match=r"b\.csv:3: "):
        list(read_records(tmp_path / "b.csv"))


def test_marks_of_wrong_answers_are_read_from_a_csv_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response,is_negative\na,b,true\na,c,False\na,d,\na,e,1\n")
    assert [record.weight for record in read_records(tmp_path / "a.csv")] == [-1, 1, 1, -1]


@pytest.mark.parametrize(("name", "text"), [("a.csv", "prompt;response\nq;a\n"), ("b.tsv", "prompt,response\nq,a\n")])
def test_another_separator_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}:1: the names of the columns are separated by a (semicolon|comma)"):
        list(read_records(tmp_path / name))


def test_a_nested_value_is_named_by_its_path():
    rows = [
        {"instruction": "add", "instances": [{"input": "1 2", "output": "3"}]},
        {"instruction": "add", "instances": []},
    ]
    records = read_records(rows, columns={"prompt": "instruction", "response": "instances[0].output"})
    assert [record.messages[-1].content for record in records] == ["3"]
    assert records.account.refused == {"unknown-shape": 1} and not records.account.unseen_columns


TRANSCRIPT = "\n\nHuman: hi\n\nAssistant: yes"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "yes", "rejected": "no"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [],
        },
        {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}], "rejected": "no"},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "yes"}, "rejected": {}},
        {"chosen": TRANSCRIPT, "rejected": TRANSCRIPT + " and no"},
    ],
)
def test_a_preference_is_refused_until_its_good_half_is_named(row):
    assert refused([row, PAIR]) == {"preference-row": 1}
    assert answers([row], format="preference") == ["yes"]


def test_an_answer_that_the_data_calls_bad_is_never_trained():
    rows = [PAIR | {"label": True}, PAIR | {"label": False}, {"text": "a text of class 0", "label": 0}]
    assert refused(rows) == {"bad-answer": 1}


def test_placeholders_are_a_finding():
    rows = [PAIR, {"prompt": "Who are you?", "response": "I am {{name}}, made by {{ author }}."}]
    assert found(rows)["DATA111"].rows == ("row 1",)
    assert "DATA111" not in found([PAIR, {"prompt": "json?", "response": '{"a": {"b": {}}} and {{1}}'}])


def test_rows_longer_than_the_context_are_a_finding_and_hopeless_ones_are_refused():
    tokenizer = tiny_tokenizer([])
    tokenizer.model_max_length = 64
    rows = [PAIR, PAIR | {"response": "a" * 100}, PAIR | {"response": "a b " * 30_000}]
    findings = found(rows, tokenizer)
    assert findings["DATA112"].rows == ("row 1",) and "64 tokens" in findings["DATA112"].sentence
    assert findings["DATA057"].rows == ("row 2",)
    assert not {"DATA112", "DATA057"} & found(rows, tokenizer, max_length=64).keys()


def test_ids_outside_the_vocabulary_are_refused():
    finding = found([PAIR, {"input_ids": [5, 10**6], "labels": [-100, 10**6]}])["DATA056"]
    assert finding.rows == ("row 1",) and "1000000" in finding.sentence


def test_held_out_rows_that_are_trained_on_are_counted():
    rows = [{"prompt": f"q{i}", "response": f"a{i}"} for i in range(6)]
    trained = list(Examples(rows[:4], tiny_tokenizer([])))
    other = [rows[0], rows[1] | {"response": "another"}, rows[5]]
    seen = overlap(trained, Examples(other, tiny_tokenizer([])))
    assert (seen.rows, seen.equal, seen.prompts, seen.places) == (3, 1, 2, ("row 0", "row 1"))
    (finding,) = overlap_findings(trained, trained)
    assert (finding.id, finding.severity) == ("DATA113", "error")
    assert overlap_findings(trained, Examples(rows[4:], tiny_tokenizer([]))) == ()
    refuse_leak(overlap_findings(trained, Examples(other, tiny_tokenizer([]))))  # a part of the rows is a warning
    with pytest.raises(DataError, match=r"DATA113: 1 of 1 held-out rows .* hold out a share of the data by prompt"):
        refuse_leak(overlap_findings(trained, Examples(other[1:2], tiny_tokenizer([]))))


def damaged(folder: Path, kind: str) -> Path:
    lines = "".join(json.dumps({"prompt": f"q{i}", "response": f"a{i}"}) + "\n" for i in range(50))
    packed = bytearray(gzip.compress(lines.encode()))
    if kind == "half":
        whole = json.dumps([{"prompt": "q", "response": "a"}] * 50)
        (folder / "half.json").write_text(whole[: len(whole) // 2])
        return folder / "half.json"
    if kind == "cut":
        packed = packed[:-20]
    else:
        packed[-6] ^= 255
    (folder / f"{kind}.jsonl.gz").write_bytes(packed)
    return folder / f"{kind}.jsonl.gz"


@pytest.mark.parametrize("kind", ["half", "cut", "crc"])
def test_an_inspection_names_a_damaged_file_also_after_rows_were_read(tmp_path, kind):
    with pytest.raises(DataError, match="malformed JSON" if kind == "half" else "cut off or damaged"):
        sftloss.inspect(damaged(tmp_path, kind), demo_tokenizer())


def test_a_pipe_and_a_device_are_no_data(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        with pytest.raises(DataError, match="a pipe or a device"):
            list(read_records(path))


LOOP = "{% for i in range(99999) %}"
RUNAWAYS = {
    "at once": "{{ 'x' * 20000000 }}",
    "loops": LOOP * 2 + "{{ 'x' * 1000 }}" + "{% endfor %}" * 2,
    "with the words": "{% if messages[0].content | length > 1 %}{{ 'x' * 2000000 }}{% endif %}",
}


@pytest.mark.parametrize("amount", RUNAWAYS.values(), ids=RUNAWAYS)
def test_a_template_that_runs_away_is_refused_before_it_is_tokenised(amount):
    tokenizer = tiny_tokenizer([], chat_template="{% for m in messages %}{{ m.content }}{% endfor %}" + amount)
    assert found([PAIR], tokenizer)["DATA051"].sentence.count("characters") == 1


@pytest.mark.parametrize("condition", ["true", "messages | length > 3"])
def test_a_template_that_loops_without_a_word_is_stopped_and_not_tried_again(monkeypatch, condition):
    for module in (limits, template):
        monkeypatch.setattr(module, "SECONDS", 0.1)
    text = f"{{% if {condition} %}}{LOOP * 3}{'{% endfor %}' * 3}{{% endif %}}"
    rows = [{"messages": 2 * [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 9
    sentence = found(rows, tiny_tokenizer([], chat_template=text))["DATA051"].sentence
    assert "9 of 9 rows" in sentence and "it takes more than" in sentence


@pytest.mark.parametrize(("order", "is_lost"), [("reverse", True), ("sort(attribute='role')", True), ("list", False)])
def test_an_answer_in_front_of_its_question_is_a_warning(order, is_lost):
    text = f"{{% for m in messages|{order} %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{{{{ eos_token }}}}{{% endfor %}}"
    text += "{% if add_generation_prompt %}<assistant>{% endif %}"
    findings = found([PAIR], tiny_tokenizer([], chat_template=text))
    assert ("DATA109" in findings) == is_lost
    assert not is_lost or "the text of the user, which stands behind its answer" in findings["DATA109"].sentence


def test_words_to_write_are_those_of_the_message_at_fault():
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content|striptags }}{{ eos_token }}{% endfor %}"
    rows = [{"prompt": "is <b>2</b> big", "response": "a <i>four</i>"}]
    findings = found(rows, tiny_tokenizer([], chat_template=text))
    assert "in message 2 'four' in place of '<i>four</i>'" in findings["DATA055"].sentence


CALL = {"function": {"name": "find", "arguments": {"city": "Rome"}}}
TOLD = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]


def test_names_of_arguments_are_a_part_of_the_call():
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.name, c.function.arguments.values()|join }}{% endfor %}"
    text = f"{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{calls}{{{{ eos_token }}}}{{% endfor %}}"
    text += "{% if add_generation_prompt %}<assistant>{% endif %}"
    assert "DATA110" in found([{"messages": TOLD}], tiny_tokenizer([], chat_template=text))


def test_openers_with_numbers_are_a_note():
    text = "{% for m in messages %}<{{ m.role }} {{ loop.index }}>\n{{ m.content }}{{ eos_token }}{% endfor %}"
    text += "{% if add_generation_prompt %}<assistant \n{% endif %}"
    assert "MASK011" in found([PAIR], tiny_tokenizer([], chat_template=text))


def test_half_a_character_in_a_variable_of_the_template_is_refused():
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert refused([{**row, "chat_template_kwargs": {"x": "\ud800"}}]) == {"lone-surrogate": 1}


def test_work_after_one_that_ran_out_of_time_and_one_that_failed_is_done():
    def endless():
        while True:
            pass

    assert limits.within(10, lambda: 1) == 1
    with pytest.raises(TimeoutError, match="more than 0.05 s"):
        limits.within(0.05, endless)
    with pytest.raises(ZeroDivisionError):
        limits.within(10, lambda: 1 / 0)
    assert limits.within(10, lambda: 2) == 2


def test_inspect_and_analyze_give_tokens_the_same_roles():
    """Both read roles from the turns of the template, never from the labels."""
    tokenizer = demo_tokenizer()
    (example,) = Examples([PAIR], tokenizer)
    ids = example.input_ids.tolist()
    rows = [{"input_ids": ids, "labels": ids}, {"input_ids": [7, 8, 9], "labels": [-100, 8, 9]}]
    document = sftloss.inspect(rows, tokenizer).document
    table = next(section for section in document.sections if section.id == "trained").tables[0]
    encoded = list(Examples(rows, tokenizer))
    for name, tokens, *_ in table.rows[:-1]:
        code = sftloss.data.ROLES.index(name)
        assert tokens == sum(int((one.roles == code).sum()) for one in encoded)
    assert {finding.id for finding in document.findings} >= {"MASK010", "MASK012"}


def test_rows_marked_as_wrong_are_said_by_inspect_to_need_a_loss_that_reads_the_marks() -> None:
    rows = [{"prompt": f"1+{i}", "response": str(i + 1), "is_negative": i % 4 == 0} for i in range(8)]
    document = sftloss.inspect(rows, demo_tokenizer()).document
    finding = next(finding for finding in document.findings if finding.id == "DATA116")
    assert finding.sentence.startswith("2 of 8 rows (25 %) have text marked as wrong (is_negative), which the loss")
    assert "--loss unlikelihood" in finding.fix and finding.rows == ("row 0", "row 4")
    leads = " ".join(section.lead for section in document.sections)
    assert "can be trained on as they are" not in leads and "DATA116" in leads
    assert not any(
        finding.id == "DATA116" for finding in sftloss.inspect(rows[1:4], demo_tokenizer()).document.findings
    )
