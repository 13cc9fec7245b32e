"""The demo's data and model: the same everywhere, offline, and as uneven as the demo needs them."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest
import torch

from sftloss.data import batches, encode
from sftloss.data.demo import DEMO_TASKS, MODEL_PATH, demo_model, demo_records, demo_tokenizer

EXPECTED = [
    "list animals",
    "duck, dog",
    "81比52大吗?",
    "是",
    "90 + 87 =",
    "177",
]


@lru_cache
def measured() -> dict[str, dict[str, float]]:
    """By task: mean answer length in tokens, mean loss of a token, share of right tokens; on records not trained on."""
    tokenizer, model = demo_tokenizer(), demo_model()
    sums: dict[str, Counter[str]] = {task: Counter() for task in DEMO_TASKS}
    examples = (encode(record, tokenizer) for record in demo_records(1, count=200))
    with torch.no_grad():
        for batch in batches(examples, pad_id=tokenizer.pad_token_id, batch_size=32):
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            logprobs = model(**inputs, use_cache=False).logits.log_softmax(-1)
            for i, example in enumerate(batch.examples):
                here = (batch.segments == i) & (batch.weights > 0)
                targets = batch.targets[here]
                found = sums[str(example.task)]
                found["rows"] += 1
                found["tokens"] += len(targets)
                found["loss"] -= float(logprobs[here].gather(1, targets[:, None]).sum())
                found["right"] += int((logprobs[here].argmax(-1) == targets).sum())
    return {
        task: {
            "length": found["tokens"] / found["rows"],
            "loss": found["loss"] / found["tokens"],
            "right": found["right"] / found["tokens"],
        }
        for task, found in sums.items()
    }


def test_demo_records_are_the_same_for_a_seed_on_every_machine():
    assert demo_records(3, count=40) == demo_records(3, count=40) != demo_records(4, count=40)
    # Written down: the shipped model was trained on what seed 0 gives.
    assert [message.content for record in demo_records(0, count=3) for message in record.messages] == EXPECTED


def test_demo_records_have_the_task_shares_they_promise():
    counts = Counter(record.task for record in demo_records(count=1000))
    assert counts == {task: round(1000 * share) for task, share in DEMO_TASKS.items()}
    assert {record.language for record in demo_records(count=100) if record.task == "yes_no"} == {"zh"}


def test_demo_records_answer_right():
    for record in demo_records(count=300):
        question, answer = (message.content for message in record.messages)
        if record.task == "add":
            assert sum(map(int, question.rstrip(" =").split(" + "))) == int(answer)
        elif record.task == "copy":
            assert question == f"copy: {answer}"
        elif record.task == "reverse":
            assert question.removeprefix("reverse: ").split() == answer.split()[::-1]
        elif record.task == "yes_no":
            left, right = question.removesuffix("大吗?").split("比")
            assert answer == ("是" if int(left) > int(right) else "不是")


def test_demo_prompts_of_lists_have_answers_of_many_lengths():
    """The condition under which a length exponent moves what is learned."""
    lengths: dict[str, set[int]] = {}
    for record in demo_records(count=3000):
        if record.task == "list":
            lengths.setdefault(record.messages[0].content, set()).add(record.messages[1].content.count(",") + 1)
    assert len(lengths) == 4 and all(found == set(range(2, 11)) for found in lengths.values())


def test_demo_records_refuse_an_empty_count():
    with pytest.raises(ValueError, match="demo_records: count"):
        demo_records(count=0)


def test_demo_checkpoint_is_small_and_has_no_pickle():
    sizes = {path.name: path.stat().st_size for path in MODEL_PATH.iterdir()}
    assert sum(sizes.values()) <= 500_000
    assert {name.rsplit(".", 1)[1] for name in sizes} <= {"json", "safetensors", "jinja"}


def test_demo_model_loads_without_a_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the demo opened a socket")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model, tokenizer = demo_model(), demo_tokenizer()
    assert len(tokenizer) == model.config.vocab_size <= 512 and not model.training
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())


def test_demo_tokenizer_finds_answers_by_generation_tags():
    tokenizer = demo_tokenizer()
    for record in demo_records(count=50):
        example = encode(record, tokenizer)
        assert example.method == "generation tags" and example.notes == ()
        assert tokenizer.decode(example.input_ids[example.weights > 0]) == record.messages[1].content + "<|im_end|>"


def test_demo_length_difficulty_and_task_are_not_aligned():
    """Long and easy, long and hard, short and easy, short and hard all occur."""
    found = measured()
    assert found["copy"]["length"] > 2.5 * found["add"]["length"] and found["copy"]["loss"] < found["add"]["loss"]
    assert found["list"]["length"] > 2.5 * found["add"]["length"] and found["list"]["loss"] > found["add"]["loss"]
    assert found["yes_no"]["length"] < found["add"]["length"] and found["yes_no"]["loss"] < found["add"]["loss"] / 4


def test_demo_model_has_learned_without_being_certain():
    """Trained: yes_no 0.99, copy 0.94, add 0.85, reverse 0.84 of tokens right; margins for the 200 rows here."""
    right = {task: facts["right"] for task, facts in measured().items()}
    assert right["yes_no"] > 0.95 and right["copy"] > 0.88
    assert 0.7 < right["add"] < 0.97 and 0.7 < right["reverse"] < 0.97
