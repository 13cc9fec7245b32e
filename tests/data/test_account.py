"""One account of rows: what a hostile file holds is counted alike by everything that reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sftloss
from sftloss.data import ROW_REASONS, Examples, Record, RowError, read_records
from sftloss.data.account import ROW_RULES, Account
from sftloss.data.demo import MODEL_PATH, demo_tokenizer
from sftloss.data.examples import Message, Origin
from sftloss.errors import ConfigError, DataError
from sftloss.rules import findings_of


def talk(question: str, answer: str, **extra: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **extra}]}


GOOD = [
    talk(f"copy: {word}", word)
    for word in ["red", "blue", "fig", "plum", "cat", "dog", "cow", "pig", "saw", "axe", "pin", "tan"]
]
LENGTH = 24
HOSTILE = [
    *map(json.dumps, GOOD),
    "{'messages': []}",
    '{"text": "cut',
    '{"text": "a", "text": "b"}',
    json.dumps({"nothing": 1}),
    json.dumps(talk("", "", weight=-1)),
    json.dumps(talk("copy: red", "")),
    json.dumps(talk("copy: red", "red", weight=0)),  # MASK001
    json.dumps({"input_ids": [5], "labels": [5]}),  # DATA054
    json.dumps(talk("copy: " + "red " * 40, "red")),  # MASK007: nothing trained is left
    json.dumps(talk("copy: red", "red " * 40)),  # MASK007: cut
    json.dumps({"messages": [*talk("copy: red", "red")["messages"], {"role": "user", "content": "?"}]}),  # DATA101
]
REFUSED = {
    "not-json": 2,
    "duplicate-key": 1,
    "unknown-shape": 1,
    "bad-weight": 1,
    "empty-answer": 1,
    "nothing-trained": 1,
    "too-short": 1,
    "truncated-away": 1,
}


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    path = tmp_path / "hostile.jsonl"
    path.write_text("\n".join(HOSTILE) + "\n", encoding="utf-8")
    return str(path)


def account_of(path: str) -> Account:
    examples = Examples(read_records(path), demo_tokenizer(), max_length=LENGTH)
    list(examples)
    return examples.account


def test_account_counts_every_row_once(hostile):
    account = account_of(hostile)
    assert account.refused == REFUSED and account.rows == len(HOSTILE) == account.used + account.unusable
    assert account.reasons.counts["last-turn-not-assistant"] == 1 and account.used == len(GOOD) + 2
    assert account.truncated == account.cuts.counts["end lost"] == 1 and account.cut_tokens == 29
    assert not account.limited
    assert str(account.reasons.origins["not-json"][0]) == f"{hostile}:{len(GOOD) + 1}"
    assert list(account.refused)[0] == "not-json"


def test_summary_names_every_reason_with_its_first_place(hostile):
    summary = account_of(hostile).summary()
    for name, count in REFUSED.items():
        assert f"{ROW_REASONS[name].code} {name}: {count} refused, first at {hostile}:" in summary


def test_rows_that_the_user_leaves_out_as_too_long_are_no_refusals():
    """Most rows are longer than `max_length`; dropping them is a note and refuses nothing."""
    rows = [talk("copy: red", "red"), *(talk("copy: red", "red " * n) for n in (30, 40))]
    examples = Examples(read_records(rows, on_error="raise"), demo_tokenizer(), max_length=LENGTH, truncate="drop")
    (example,) = examples
    account = examples.account
    assert (account.rows, account.used, account.unusable, account.truncated, example.truncated) == (3, 1, 0, 0, 0)
    (finding,) = findings_of(ROW_RULES, account)
    assert (finding.id, finding.severity, finding.rows) == ("DATA117", "info", ("row 1", "row 2"))
    assert finding.sentence.startswith("2 of 3 rows (67 %) are longer than --max-length and left out")
    assert "DATA117 longer-than-kept: 2 left out, first at row 1." in account.summary()
    with pytest.raises(DataError, match="No usable row"):
        list(Examples(read_records(rows[1:]), demo_tokenizer(), max_length=LENGTH, truncate="drop"))
    with pytest.raises(ConfigError, match="which is missing; give it"):
        Examples(read_records(rows), demo_tokenizer(), truncate="drop")


def test_former_accounts_agree_on_one_hostile_file(hostile):
    """`inspect`, `analyze`, `lengths`, `fine_tune` and `compare` each had an account of their own."""
    from sftloss.decoder import load_model
    from sftloss.experiments import Experiment
    from sftloss.experiments.run.material import material
    from sftloss.finetune import Recipe
    from sftloss.finetune.rows import read
    from sftloss.pipeline import Run

    account, tokenizer, run = account_of(hostile), demo_tokenizer(), Run(max_length=LENGTH)
    expected = {finding.id: finding for finding in findings_of(ROW_RULES, account)}
    assert set(expected) == {*(ROW_REASONS[name].code for name in REFUSED), "DATA101"}
    model, _ = load_model(MODEL_PATH)
    for report in (
        sftloss.inspect(hostile, tokenizer, run=run),
        sftloss.analyze(model, tokenizer, hostile, run=run),
        sftloss.lengths(hostile, tokenizer, run=run),
    ):
        findings = [(f.id, f.sentence, f.rows, f.severity) for f in report.document.findings if f.id in expected]
        assert sorted(findings) == sorted((f.id, f.sentence, f.rows, f.severity) for f in expected.values())
    data = read(Recipe(model="demo", data=hostile, max_length=LENGTH), hostile, tokenizer)
    assert data.refused == REFUSED and len(data.examples) == account.used
    experiment = Experiment(recipe=Recipe(model="demo", data=hostile, eval_data=hostile, max_length=LENGTH))
    assert len(material(experiment, tokenizer).train.examples) == account.used


def test_refused_rows_of_reading_and_of_encoding_are_judged_together():
    """Four of nine rows cannot be read, two more not encoded: neither is most of the rows, both are."""
    rows = [*GOOD[:3], *[{"nothing": 1}] * 4, *[{"input_ids": [5], "labels": [5]}] * 2]
    examples = Examples(read_records(rows), demo_tokenizer())
    with pytest.raises(DataError, match=r"67 % of the rows cannot be used, 50 % are allowed.*DATA009.*DATA054"):
        list(examples)
    assert len(list(Examples(read_records(rows, on_error="skip"), demo_tokenizer()))) == 3


def test_count_never_raises_where_there_are_rows_and_skip_does():
    bad = [{"input_ids": [5], "labels": [5]}]
    examples = Examples(read_records(bad, on_error="count"), demo_tokenizer())
    assert list(examples) == [] and examples.account.refused == {"too-short": 1}
    with pytest.raises(DataError, match="No usable row"):
        list(Examples(read_records(bad, on_error="skip"), demo_tokenizer()))
    with pytest.raises(DataError, match="No usable row"):
        list(read_records([], on_error="count"))


def test_raise_stops_at_the_first_row_of_either_stage(hostile):
    with pytest.raises(RowError) as reading:
        list(Examples(read_records(hostile, on_error="raise"), demo_tokenizer()))
    assert reading.value.reason == "not-json" and str(reading.value.origin) == f"{hostile}:{len(GOOD) + 1}"
    with pytest.raises(RowError) as encoding:
        list(Examples(read_records([*GOOD, {"input_ids": [5]}], on_error="raise"), demo_tokenizer()))
    assert encoding.value.reason == "too-short" and str(encoding.value).startswith("row 12: DATA054")


def test_examples_of_records_at_hand_have_an_account_too():
    records = [Record(Origin("mine", i), messages=(Message("user", "a"), Message("assistant", "b"))) for i in range(3)]
    examples = Examples(records, demo_tokenizer())
    assert len(list(examples)) == len(list(examples)) == 3
    assert (examples.account.rows, examples.account.used, examples.account.refused) == (3, 3, {})


def test_pairs_give_each_example_with_its_record(hostile):
    pairs = list(Examples(read_records(hostile), demo_tokenizer(), max_length=LENGTH).pairs())
    assert all(record.origin == example.origin for record, example in pairs) and len(pairs) == len(GOOD) + 2


def test_a_limit_is_said(hostile):
    examples = Examples(read_records(hostile, limit=3), demo_tokenizer())
    list(examples)
    assert examples.account.limited and examples.account.facts()[1] == ("rows used", "3 of the first 3")


def test_memory_of_an_account_does_not_grow_with_the_rows():
    """A million refused rows are one counter and ten places."""
    examples = Examples(read_records([{"nothing": 1}] * 3000 + GOOD, on_error="skip"), demo_tokenizer())
    list(examples)
    assert (
        examples.account.reasons.counts == {"unknown-shape": 3000}
        and len(examples.account.reasons.origins["unknown-shape"]) == 10
    )
