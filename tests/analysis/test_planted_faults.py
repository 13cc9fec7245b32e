"""Faults planted in real files are found by their ids through the public door; a clean file raises no warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sftloss import analyze
from sftloss.analysis import EXAMPLE_MEAN, AnalysisOptions, micro_batch_mean
from sftloss.analysis.document import Finding
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer

Row = dict[str, Any]


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.fixture(scope="module")
def tokenizer():
    return demo_tokenizer()


@pytest.fixture
def found(model, tokenizer, tmp_path: Path):
    """Findings of rows written to a file and read back, by id."""

    def run(rows: list[Row], **options: Any) -> dict[str, Finding]:
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        report = analyze(model, tokenizer, path, question=AnalysisOptions(replicates=100, **options))
        return {finding.id: finding for finding in report.document.findings}

    return run


def conversation(prompt: str, answer: str, **rest: Any) -> Row:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **rest}


def clean(count: int = 60, task: str = "reverse") -> list[Row]:
    """Prompts that occur once, answers of 2 to 12 words whose length the prompt tells, every end trained."""
    rows: dict[str, Row] = {}
    for record in demo_records(3, count=40 * count):
        if record.task == task and record.messages is not None:
            prompt, answer = (message.content for message in record.messages)
            rows.setdefault(prompt, conversation(prompt, answer))
    return list(rows.values())[:count]


def tokenised(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """As another framework would have written them: ids and labels, the prompt masked."""
    out = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True)["input_ids"]
        answer = tokenizer(row["messages"][1]["content"])["input_ids"] + [tokenizer.eos_token_id]
        out.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return out


def test_a_clean_file_raises_no_warning(found, tokenizer):
    for rows in (clean(), tokenised(tokenizer, clean())):
        assert [f for f in found(rows).values() if f.severity != "info"] == []


def test_ends_that_are_never_supervised_are_mask003(found, tokenizer):
    rows = tokenised(tokenizer, clean())
    for row in rows:
        row["labels"][-1] = -100
    finding = found(rows)["MASK003"]
    assert finding.severity == "error" and finding.value == 1.0 and finding.rows[0] == "data.jsonl:1"


def test_an_empty_mask_is_mask001(found, tokenizer):
    rows = tokenised(tokenizer, clean())
    for i in (4, 9, 11):
        rows[i]["labels"] = [-100] * len(rows[i]["labels"])
    finding = found(rows)["MASK001"]
    assert finding.severity == "warning" and finding.value == pytest.approx(3 / 60)
    assert [row.rpartition("data.jsonl:")[2] for row in finding.rows] == ["5", "10", "12"]


def test_a_trained_prompt_is_mask010(found):
    rows = clean()
    for row in rows:
        row["messages"][0]["loss_weight"] = 1.0
    finding = found(rows)["MASK010"]
    assert finding.severity == "warning" and 0.3 < finding.value < 0.8


def two_lengths() -> list[Row]:
    """Thirty prompts, each answered in 1 to 4 words and in 10 to 14."""
    lengths = [(i, words) for i in range(30) for words in (1 + i % 4, 10 + i % 5)]
    return [conversation(f"list {i}", " ".join(["apple"] * words)) for i, words in lengths]


def test_prompts_with_answers_of_different_length_are_data103(found):
    finding = found(two_lengths())["DATA103"]
    assert finding.value == 1.0 and finding.severity == "info"


def test_a_mean_of_means_is_norm001(found):
    """A token mean over each micro-batch of two, where answers to one prompt differ in length: a warning."""
    have = found(two_lengths(), normalisation=micro_batch_mean(2))
    assert have["NORM001"].severity == "warning" and have["NORM001"].fix
    assert have["NORM001"].interval is not None and "micro-batch of 2" in have["NORM001"].sentence
    assert "NORM001" not in found(two_lengths())


def test_an_example_mean_that_shortens_answers_is_norm002(found):
    have = found(two_lengths(), normalisation=EXAMPLE_MEAN)["NORM002"]
    assert have.severity == "warning" and "shorter" in have.sentence


def test_one_task_that_dominates_is_norm005(found):
    """One example in ten is noise to a model that copies perfectly: it takes most of the signal."""
    known = clean(90, "copy")
    noise = [conversation(f"noise {i}", f"{i * 7919 % 997} qx {i * 31 % 83} zj", task="noise") for i in range(10)]
    finding = found([*(row | {"task": "copy"} for row in known), *noise])["NORM005"]
    assert finding.severity == "warning" and finding.sentence.startswith("The task 'noise'")
    assert finding.interval is not None and finding.interval.low > 3
