"""Batch tensors that training makes of rows and tokenizer, for the objectives that read them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sftloss.data import Examples
from sftloss.data.demo import demo_tokenizer
from sftloss.errors import ConfigError
from sftloss.finetune.rows import Collator
from sftloss.objectives import context_candidates, objective
from sftloss.objectives.description import descriptions
from sftloss.objectives.record import MAKERS
from sftloss.training.batch.made import _MAKERS, made_of

ROWS = [
    {"messages": [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3 3"}]},
    {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "bad", "weight": 0.5, "is_negative": True},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "good 7"},
        ]
    },
]


def batch_of(text: str, *, packed: bool = False) -> dict[str, torch.Tensor]:
    tokenizer = demo_tokenizer()
    examples = list(enumerate(Examples(ROWS, tokenizer)))
    collate = Collator(0, packed=packed, made=made_of(objective(text), tokenizer))
    return collate([examples] if packed else [[one] for one in examples])


@pytest.mark.parametrize("packed", [False, True])
def test_context_candidates_are_those_of_each_row_by_itself(packed: bool) -> None:
    batch = batch_of("unlikelihood_context", packed=packed)
    for number, example in enumerate(Examples(ROWS, demo_tokenizer())):
        labels = torch.where(example.weights != 0, example.input_ids, -100)
        expected = context_candidates(example.input_ids[None], labels[None])[0, 1:]
        # the last position predicts nothing
        laid = batch["candidate_ids"][batch["segments"] == number][:-1]
        assert laid.equal(expected)


def test_negative_weights_become_marks_with_the_weight_of_their_size() -> None:
    batch = batch_of("unlikelihood")
    bad = batch["is_negative"] > 0
    assert bad.any() and set(batch["token_weights"][bad].tolist()) == {0.5}
    assert demo_tokenizer().decode(batch["shift_labels"][bad]).startswith("bad")
    assert batch_of("cross_entropy")["token_weights"].min() == -0.5


def test_numbers_are_those_of_the_tokenizer() -> None:
    batch, tokenizer = batch_of("number_token"), demo_tokenizer()
    is_number = ~batch["target_value"].isnan() & (batch["token_weights"] != 0)
    texts = [tokenizer.decode(i).strip() for i in batch["shift_labels"][is_number]]
    assert [float(text) for text in texts] == batch["target_value"][is_number].tolist() and "7" in texts
    ids, values = batch["candidate_ids"][0, 0], batch["candidate_value"][0, 0]
    assert [float(tokenizer.decode(i)) for i in ids] == values.tolist()


def test_a_token_that_abstains_is_found_by_its_letters_or_asked_for() -> None:
    tokenizer = demo_tokenizer()
    with pytest.raises(ConfigError, match=r"the tokenizer has no token 'IDK', .* name one that the data do not hold"):
        made_of(objective("idk"), tokenizer)
    ids = batch_of("idk(token='im_end')")["candidate_ids"]
    assert ids.unique().tolist() == [0, tokenizer.convert_tokens_to_ids("<|im_end|>")]  # 0 on padding


@pytest.mark.parametrize(
    ("vocabulary", "added", "token", "expected"),
    [
        ({"IDK": 5}, {"[IDK]": 999}, "IDK", 999),
        ({"▁IDK": 3, "[IDK]": 99}, {}, "IDK", 99),
        ({"▁IDK": 3, "IDK": 7, "(IDK": 1}, {}, "IDK", 7),
        ({"[IDK]": 4}, {"IDK": 50}, "IDK", 50),
        ({"ab": 2}, {"<|a-b|>": 60}, "a-b", 60),
    ],
)
def test_a_token_that_abstains_is_an_added_one_or_one_in_brackets_first(
    vocabulary: dict[str, int], added: dict[str, int], token: str, expected: int
) -> None:
    tokenizer = SimpleNamespace(get_vocab=lambda: vocabulary | added, get_added_vocab=lambda: added)
    example = next(iter(Examples(ROWS, demo_tokenizer())))
    (columns,) = made_of(objective(f"idk(token={token!r})"), tokenizer).columns
    assert columns(example)["candidate_ids"].unique().tolist() == [expected]


def test_terms_that_abstain_by_different_tokens_are_refused() -> None:
    tokenizer = SimpleNamespace(get_vocab=lambda: {"A": 1, "IDK": 2}, get_added_vocab=dict)
    with pytest.raises(ConfigError, match="need different candidate_ids, and a batch has one"):
        made_of(objective("idk(token='A') + idk"), tokenizer)
    assert made_of(objective("idk(token='IDK') + idk(upper=0.2)"), tokenizer).names == ("candidate_ids",)


def test_every_way_to_make_batch_tensors_has_a_function_and_a_sentence() -> None:
    assert _MAKERS.keys() == MAKERS.keys()
    assert {description.record.made for description in descriptions()} - {""} == MAKERS.keys()


def test_terms_that_need_different_candidates_are_refused() -> None:
    with pytest.raises(ConfigError, match="need different candidate_ids, and a batch has one"):
        made_of(objective("unlikelihood_context + 0.1 * kl_anchor"), demo_tokenizer())
    assert made_of(objective("unlikelihood + 0.1 * kl_anchor"), demo_tokenizer()).names == ("is_negative",)
