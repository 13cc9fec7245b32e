"""Outputs are the model's own: padding, batches and the model's settings change nothing, seeds everything."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import pytest
import torch

from sftloss.data import encode
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.data.examples import Message, Origin, Record
from sftloss.errors import DataError
from sftloss.experiments.metrics.generation import Sampling, generate


@lru_cache
def demo():
    return demo_model(), demo_tokenizer(), demo_records(1, count=12)


def own_greedy(model, tokenizer, record: Record, limit: int) -> tuple[list[int], bool]:
    """One row, no padding, no cache, argmax after argmax."""
    example = encode(record, tokenizer)
    ids = example.input_ids[: int(torch.nonzero(example.weights > 0)[0, 0])].tolist()
    new: list[int] = []
    while len(new) < limit:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            return new, True
        new.append(token)
    return new, False


def test_greedy_outputs_are_argmax_after_argmax():
    model, tokenizer, rows = demo()
    outputs = generate(model, tokenizer, rows, Sampling(max_new_tokens=12, outputs_per_batch=5))
    assert [output.row for output in outputs] == list(range(12))
    for output, row in zip(outputs, rows, strict=True):
        ids, ended = own_greedy(model, tokenizer, row, 12)
        assert (list(output.tokens), output.ended) == (ids, ended)
        assert output.length == len(ids) + ended and output.text == tokenizer.decode(ids)
        assert output.reference_length == int((encode(row, tokenizer).weights > 0).sum())
    assert {output.ended for output in outputs} == {True, False}  # lists and copies are longer than 12


def test_samples_are_the_same_for_a_seed_and_leave_the_random_state_alone():
    model, tokenizer, rows = demo()
    before = torch.random.get_rng_state()
    first, again, other = (
        generate(model, tokenizer, rows[:4], Sampling(3, 8, 1.0, seed, outputs_per_batch=6)) for seed in (1, 1, 2)
    )
    assert first == again != other and torch.equal(before, torch.random.get_rng_state())
    assert [(output.row, output.sample) for output in first] == [(i, k) for i in range(4) for k in range(3)]


def test_samples_are_drawn_from_the_models_own_distribution_whatever_its_settings():
    """Top-1 or min-p as the model sets it would give one word; drawn freely, words come as often as the model says."""
    model, tokenizer, _ = demo()
    row = Record(Origin("rows", 0), (Message("user", "list fruits"), Message("assistant", "fig")))
    example = encode(row, tokenizer)
    start = int(torch.nonzero(example.weights > 0)[0, 0])
    with torch.no_grad():
        p = model(input_ids=example.input_ids[None, :start]).logits[0, -1].softmax(0)
    kept = model.generation_config
    model.generation_config = type(kept)(do_sample=True, top_k=1, min_p=0.99)
    settings = model.generation_config
    try:
        outputs = generate(model, tokenizer, [row], Sampling(400, 1, 1.0, outputs_per_batch=400))
        assert model.generation_config is settings
    finally:
        model.generation_config = kept
    counts = Counter(output.tokens[0] for output in outputs if output.tokens)
    for token, share in enumerate(p.tolist()):
        # four standard errors of a share of 400
        assert abs(counts[token] / 400 - share) < 4 * (max(share, 1 / 400) / 400) ** 0.5


def test_generation_gives_a_training_model_back_in_training():
    model, tokenizer, rows = demo()
    model.train()
    try:
        generate(model, tokenizer, rows[:1], Sampling(max_new_tokens=2))
        assert model.training
    finally:
        model.eval()


def test_the_last_answer_of_a_conversation_is_what_is_asked_for():
    _, tokenizer, _ = demo()
    turns = ("1 + 1 =", "2", "2 + 2 =", "4")
    roles = ("user", "assistant") * 2
    record = Record(Origin("rows", 0), tuple(map(Message, roles, turns)))
    from sftloss.experiments.metrics.generation import _prompt

    prompt, reference = _prompt(encode(record, tokenizer))
    assert tokenizer.decode(prompt).endswith("2 + 2 =<|im_end|>\n<|im_start|>assistant\n") and reference == 2


def test_generation_without_rows_or_answers_is_refused():
    model, tokenizer, _ = demo()
    with pytest.raises(DataError, match="there is no held-out row"):
        generate(model, tokenizer, [])
    trained = Message("user", "1 + 1 =", weight=1.0)
    only_prompt = Record(Origin("rows", 7), (trained, Message("assistant", "2", weight=0.0)))
    with pytest.raises(DataError, match="row 7 has no answer"):
        generate(model, tokenizer, [only_prompt])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"samples": 0}, "samples"), ({"max_new_tokens": 0}, "max_new"), ({"temperature": -1.0}, "temperature"),
     ({"samples": 2}, "temperature 0")],
)  # fmt: skip
def test_sampling_refuses_what_cannot_be(arguments, word):
    with pytest.raises(ValueError, match=f"Sampling: .*{word}"):
        Sampling(**arguments)
