"""Faults planted in a file are found by their ids through `sftloss.analyze` and `lengths`; a clean file raises none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sftloss import analyze
from sftloss.analysis import AnalysisOptions, LengthOptions
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.document import Finding
from sftloss.pipeline import Run, lengths
from sftloss.weights import EXAMPLE_MEAN, micro_batch_mean

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
        report = analyze(model, tokenizer, path, question=AnalysisOptions(**options))
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


def test_a_clean_file_raises_no_finding(found, tokenizer):
    """Not even a note: answers of 2 to 12 words that the model knows, each prompt once."""
    for rows in (clean(), tokenised(tokenizer, clean())):
        assert found(rows) == {}


def test_a_clean_file_of_several_tasks_raises_no_finding(found):
    """As a practitioner has them: three tasks of unequal length, size and difficulty."""
    rows = {}
    for record in demo_records(3, count=1000):
        if record.task in ("add", "reverse", "list") and record.messages is not None:
            prompt, answer = (message.content for message in record.messages)
            rows.setdefault(prompt, conversation(prompt, answer, task=record.task))
    assert found(list(rows.values())) == {}


def test_ends_that_are_never_supervised_are_mask003(found, tokenizer):
    rows = tokenised(tokenizer, clean())
    for row in rows:
        row["labels"][-1] = -100
    finding = found(rows)["MASK003"]
    assert finding.severity == "error" and finding.value == 1.0 and finding.rows[0].endswith("data.jsonl:1")


def test_an_empty_mask_is_mask001(found, tokenizer):
    rows = tokenised(tokenizer, clean())
    for i in (4, 9, 11):
        rows[i]["labels"] = [-100] * len(rows[i]["labels"])
    finding = found(rows)["MASK001"]
    assert finding.severity == "warning" and finding.value == pytest.approx(3 / 60)
    assert [row.rpartition("data.jsonl:")[2] for row in finding.rows] == ["5", "10", "12"]


def test_answers_that_are_cut_off_are_mask007(model, tokenizer, tmp_path):
    path = tmp_path / "data.jsonl"
    rows = clean()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = [len(row["input_ids"]) for row in tokenised(tokenizer, rows)]
    limit = sorted(sizes)[-4]
    cut = [i for i, size in enumerate(sizes, 1) if size > limit]
    report = analyze(model, tokenizer, path, question=AnalysisOptions(), run=Run(max_length=limit))
    (finding,) = (one for one in report.document.findings if one.id == "MASK007")
    assert finding.value == pytest.approx(len(cut) / len(rows)) and finding.severity == "warning"
    assert finding.rows == tuple(f"{path}:{i}" for i in cut) and "--max-length" in finding.fix


def test_a_trained_prompt_is_mask010(found):
    rows = clean()
    for row in rows:
        row["messages"][0]["loss_weight"] = 1.0
    finding = found(rows)["MASK010"]
    assert finding.severity == "info" and "as weights in the data ask for" in finding.sentence


def two_lengths() -> list[Row]:
    """Thirty prompts, each answered in 1 to 4 words and in 10 to 14."""
    lengths = [(i, words) for i in range(30) for words in (1 + i % 4, 10 + i % 5)]
    return [conversation(f"list {i}", " ".join(["apple"] * words)) for i, words in lengths]


def test_prompts_with_answers_of_different_length_are_data103(found):
    finding = found(two_lengths())["DATA103"]
    assert finding.value == 1.0 and finding.severity == "info"


def test_a_mean_of_means_is_norm001(found):
    """A token mean over each micro-batch of two, where answers to one prompt differ in length: a warning."""
    have = found(two_lengths(), normalization=micro_batch_mean(2))
    assert have["NORM001"].severity == "warning" and have["NORM001"].fix
    assert have["NORM001"].interval is not None and "micro-batch of 2" in have["NORM001"].sentence
    assert "NORM001" not in found(two_lengths())


def test_an_example_mean_that_shortens_answers_is_norm002(found):
    have = found(two_lengths(), normalization=EXAMPLE_MEAN)["NORM002"]
    assert have.severity == "warning" and "shorter" in have.sentence


def test_one_task_that_dominates_is_norm005(found):
    """One example in ten is noise to a model that copies perfectly: it takes most of the signal."""
    known = clean(90, "copy")
    noise = [conversation(f"noise {i}", f"{i * 7919 % 997} qx {i * 31 % 83} zj", task="noise") for i in range(10)]
    finding = found([*(row | {"task": "copy"} for row in known), *noise])["NORM005"]
    assert finding.severity == "warning" and finding.sentence.startswith("The task 'noise'")
    assert finding.interval is not None and finding.interval.low > 3


def test_a_policy_that_is_missed_is_norm003(found):
    """The example mean weighs examples alike at S0, where a policy of equal tokens wants length."""
    finding = found(clean(), policy="per-token", level="S0", normalization=EXAMPLE_MEAN)["NORM003"]
    assert finding.severity == "warning" and finding.value == pytest.approx(0.0, abs=1e-6)
    assert finding.fix == "--normalization token-mean"
    assert "on target" in found(clean(), policy="per-token", level="S0")["NORM003"].sentence


def test_a_few_examples_that_hold_the_signal_are_norm004(found):
    """Two long rows of noise among 198 that the model copies."""
    noise = [conversation(f"noise {k}", " ".join(f"q{i * 37 % 91}x" for i in range(60))) for k in range(2)]
    rows = [*clean(198, "copy"), *noise]
    finding = found(rows)["NORM004"]
    assert finding.value < 0.1 and finding.rows[:2] in (
        ("data.jsonl:199", "data.jsonl:200"),
        ("data.jsonl:200", "data.jsonl:199"),
    )
    assert finding.severity == "warning" and "read the rows" in finding.fix


def test_wrong_labels_are_sig001(found):
    """Three answers in sixty are another row's: what the model holds impossible takes the signal."""
    rows = clean(60, "copy")
    for i in (10, 20, 30):
        rows[i]["messages"][1]["content"] = rows[i + 5]["messages"][1]["content"]
    finding = found(rows)["SIG001"]
    assert "p < 0.01" in finding.sentence and finding.severity == "warning"
    assert finding.interval is None  # of three rows a bootstrap shows too little
    assert set(finding.rows[:3]) == {"data.jsonl:11", "data.jsonl:21", "data.jsonl:31"} and finding.fix


def test_answers_that_end_too_early_are_sig003(found):
    """Half of the answers stop in the middle: the model expects about half of the ends that the data has."""
    rows = clean(60)
    for row in rows[::2]:
        words = row["messages"][1]["content"].split()
        row["messages"][1]["content"] = " ".join(words[: len(words) // 2])
    finding = found(rows)["SIG003"]
    assert 0.3 < finding.value < 0.7 and finding.severity == "warning" and "weight" in finding.fix


def test_numbers_that_are_not_finite_are_num001(tokenizer, tmp_path):
    model = demo_model()
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in clean()), encoding="utf-8")
    word = clean()[3]["messages"][1]["content"].split()[0]
    token = tokenizer(word)["input_ids"][0]
    model.get_input_embeddings().weight.data[token] = float("nan")
    report = analyze(model, tokenizer, path, question=AnalysisOptions())
    (finding,) = (one for one in report.document.findings if one.id == "NUM001")
    assert finding.severity == "error" and "data.jsonl:4" in finding.rows


def predicted(tmp_path: Path, tokenizer: Any, rows: list[Row], **options: Any) -> dict[str, Finding]:
    """Findings of `lengths` on the same file."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = lengths(path, tokenizer, question=LengthOptions(unit="tokens", **options))
    return {finding.id: finding for finding in report.document.findings}


def test_lengths_of_a_clean_file_raise_no_finding(tokenizer, tmp_path):
    assert predicted(tmp_path, tokenizer, clean()) == {}


def test_lengths_find_what_analyze_finds(found, tokenizer, tmp_path):
    for rule, id in ((micro_batch_mean(2), "NORM001"), (EXAMPLE_MEAN, "NORM002")):
        have = predicted(tmp_path, tokenizer, two_lengths(), normalizations=(rule,))
        assert have[id] == found(two_lengths(), normalization=rule)[id]
        assert have[id].severity == "warning" and have["DATA103"].value == 1.0
        assert [row.rpartition("/")[2] for row in have["DATA103"].rows[:2]] == ["data.jsonl:1", "data.jsonl:2"]


def test_lengths_find_a_few_giant_answers(tokenizer, tmp_path):
    rows = [*clean(198), *(conversation(f"long {k}", "ab " * 600) for k in range(2))]
    finding = predicted(tmp_path, tokenizer, rows)["NORM004"]
    rows_found = {row.rpartition("/")[2] for row in finding.rows[:2]}
    assert rows_found == {"data.jsonl:199", "data.jsonl:200"} and finding.value < 0.1
