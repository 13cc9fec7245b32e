"""Loss weights in the spelling of every framework, and pre-tokenised rows."""

from __future__ import annotations

import math

import pytest
import torch

from sftloss.data import BadRow, Origin
from sftloss.data.formats.record import to_record

HERE = Origin("rows.jsonl", 0, 1)


def record_of(row):
    return to_record(row, HERE)[0]


def fault_of(row) -> BadRow:
    with pytest.raises(BadRow) as caught:
        record_of(row)
    return caught.value


def weighted_turn(**weight):
    user = {"role": "user", "content": "q"}
    return {"messages": [user, {"role": "assistant", "content": "a", **weight}]}


def weight_of(**weight) -> float | None:
    return record_of(weighted_turn(**weight)).messages[1].weight


@pytest.mark.parametrize(
    ("framework", "key", "value", "weight"),
    [
        ("LLaMA-Factory", "loss_weight", 0.25, 0.25),
        ("ms-swift", "loss", True, 1.0),
        ("ms-swift", "loss", False, 0.0),
        ("ms-swift", "loss", 2, 2.0),
        ("ms-swift", "loss_scale", 3.5, 3.5),
        ("axolotl", "train", False, 0.0),
        ("axolotl", "training", True, 1.0),
        ("OpenAI, Mistral", "weight", 0, 0.0),
        ("OpenAI, Mistral", "weight", 1, 1.0),
        ("prime-rl", "loss_mask", 1, 1.0),
        ("", "trainable", False, 0.0),
        ("any", "weight", None, None),
    ],
)
def test_message_weight_is_read_in_the_spelling_of(framework, key, value, weight):
    """Zero and nothing said are different things: nothing said leaves the choice to the role."""
    assert weight_of(**{key: value}) == weight


def test_message_without_a_weight_says_nothing():
    """None, not 1: the role's own weight applies."""
    assert weight_of() is None


def test_sharegpt_turns_have_weights_too():
    """OpenChat writes them there."""
    turns = [{"from": "human", "value": "q", "weight": 0}, {"from": "gpt", "value": "a", "weight": 0.5}]
    assert [message.weight for message in record_of({"conversations": turns}).messages] == [0.0, 0.5]


def test_two_spellings_may_agree_but_not_disagree():
    """Neither is more right than the other."""
    assert weight_of(train=False, loss_weight=0.0) == 0.0
    assert fault_of(weighted_turn(train=True, weight=0)).reason == "bad-weight"


def test_blocks_may_state_the_weight_of_their_message_but_not_disagree():
    """One message has one weight."""
    same = [{"type": "text", "text": "a", "train": False}, {"type": "text", "text": "b", "train": False}]
    mixed = [{"type": "text", "text": "a", "train": False}, {"type": "text", "text": "b"}]
    assert record_of({"messages": [{"role": "assistant", "content": same}]}).messages[0].weight == 0.0
    assert fault_of({"messages": [{"role": "assistant", "content": mixed}]}).reason == "bad-weight"
    contradicted = {"role": "assistant", "content": same, "weight": 1}
    assert fault_of({"messages": [contradicted]}).reason == "bad-weight"


@pytest.mark.parametrize("value", [-0.2, math.nan, math.inf, "1", [1], {}, 10**400], ids=str)
@pytest.mark.parametrize("key", ["loss_weight", "weight", "loss", "train"])
def test_weight_that_is_no_weight_is_refused(key, value):
    """A NaN here would be a NaN in every parameter one step later."""
    assert fault_of(weighted_turn(**{key: value})).reason == "bad-weight"


def test_negative_weight_is_refused_with_the_cure():
    """A signed reward is a wish one can have, elsewhere."""
    assert "weighted_loss your own coefficients" in fault_of(weighted_turn(weight=-1)).detail
    assert "weighted_loss your own coefficients" in fault_of({"text": "x", "weight": -1}).detail


@pytest.mark.parametrize("key", ["weight", "loss_weight", "loss_scale"])
def test_row_weight_is_read(key):
    """Of any format."""
    assert record_of({"text": "x", key: 0.5}).weight == 0.5
    assert record_of({"question": "x", "answer": "y", key: 2}).weight == 2.0
    assert record_of({"text": "x", key: None}).weight == 1.0


@pytest.mark.parametrize("value", [-1, math.nan, "0.5", "heavy", [0.5], {"a": 1}], ids=str)
def test_row_weight_that_is_no_weight_is_refused(value):
    """Ignoring it would train the row at weight 1."""
    assert fault_of({"text": "x", "weight": value}).reason == "bad-weight"


@pytest.mark.parametrize("value", [1e308, 5e-324, 1e16])
def test_weight_beyond_float32_is_a_bad_weight_and_not_a_row_without_one(value):
    fault = fault_of({"text": "x", "weight": value})
    assert fault.reason == "bad-weight" and "write 0 or a number from 1e-15 to 1e+15" in str(fault)


def test_row_weights_may_not_disagree():
    """As for messages."""
    assert fault_of({"text": "x", "weight": 1, "loss_weight": 2}).reason == "bad-weight"


@pytest.mark.parametrize(("mark", "sign"), [(True, -1), (1, -1), (False, 1), (0, 1), (None, 1)])
def test_marks_of_wrong_text_are_read_alike_on_rows_messages_and_tokens(mark, sign):
    assert record_of({"prompt": "q", "response": "a", "weight": 0.5, "is_negative": mark}).weight == sign * 0.5
    assert weight_of(weight=0.5, is_negative=mark) == sign * 0.5
    tokens = record_of({"input_ids": [5, 6], "weights": [0.5, 0.5], "is_negative": [0, mark]}).tokens
    assert tokens["weights"] == [0.5, sign * 0.5]


@pytest.mark.parametrize("mark", ["yes", 2, -1])
def test_marks_that_are_neither_true_nor_false_are_refused_alike(mark):
    tokens = {"input_ids": [5, 6], "is_negative": [False, mark]}
    for row in ({"prompt": "q", "response": "a", "is_negative": mark}, weighted_turn(is_negative=mark), tokens):
        assert "write true for a wrong answer, or false" in str(fault_of(row))


def test_a_mark_on_a_message_that_is_no_answer_is_refused_with_the_cure():
    user = {"role": "user", "content": "q", "is_negative": True}
    fault = fault_of({"messages": [user, {"role": "assistant", "content": "a"}]})
    assert "message 1 (user) has is_negative and is no answer; mark an answer of the assistant instead" in str(fault)


def test_token_row_keeps_ids_labels_and_roles():
    """They are checked, not changed."""
    row = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "roles": [0, 1, 1], "weight": 2}
    record = record_of(row)
    assert record.tokens == {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "roles": [0, 1, 1]}
    assert record.weight == 2.0 and record.language is None


@pytest.mark.parametrize(
    "key", ["weights", "loss_weights", "loss_mask", "loss_scale", "completion_mask", "assistant_masks", "weight"]
)
def test_token_weights_are_read_in_every_spelling(key):
    """Masks are weights of 0 and 1."""
    assert record_of({"input_ids": [5, 6], key: [0, 1]}).tokens["weights"] == [0.0, 1.0]


def test_several_token_masks_multiply():
    """As in TRL, where all masks must allow a token."""
    row = {"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "assistant_masks": [1, 1, 0], "weights": [2, 2, 2]}
    assert record_of(row).tokens["weights"] == [0.0, 2.0, 0.0]


@pytest.mark.parametrize("mask", [[0, 1, 1], [1, 1, 0], [True, True, False]], ids=str)
def test_padding_is_left_out_on_either_side(mask):
    """A record is one sequence; padding is the batch's business."""
    row = {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "attention_mask": mask}
    kept = [token for token, real in zip([5, 6, 7], mask, strict=True) if real]
    assert record_of(row).tokens == {"input_ids": kept, "labels": kept}


def test_arrays_and_tensors_are_lists_of_token_ids():
    """Rows at hand come from tokenizers."""
    assert record_of({"input_ids": torch.tensor([5, 6])}).tokens == {"input_ids": [5, 6]}


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({"input_ids": []}, "empty-answer", "empty"),
        ({"input_ids": [5], "attention_mask": [0]}, "empty-answer", "empty"),
        ({"input_ids": "abc"}, "bad-tokens", "not a list"),
        ({"input_ids": [[5, 6]]}, "bad-tokens", "flat list"),
        ({"input_ids": [5.0]}, "bad-tokens", "whole numbers"),
        ({"input_ids": [True]}, "bad-tokens", "whole numbers"),
        ({"input_ids": [5, -100]}, "bad-tokens", "-100 belongs into labels"),
        ({"input_ids": [5, 6], "labels": [5]}, "bad-tokens", "labels has 1 entries, input_ids 2"),
        ({"input_ids": [5, 6], "weights": [1]}, "bad-tokens", "weights has 1 entries"),
        ({"input_ids": [5, 6], "weights": [1, -1]}, "bad-weight", "weights[1]"),
        ({"input_ids": [5, 6], "weights": [1, math.nan]}, "bad-weight", "weights[1]"),
        ({"input_ids": [5, 6], "loss_mask": [1, 1], "weights": [1]}, "bad-tokens", "another mask"),
        ({"input_ids": [5, 6], "attention_mask": [1]}, "bad-tokens", "attention_mask has 1"),
        ({"input_ids": [5, 6], "attention_mask": [1, 2]}, "bad-tokens", "unpacked"),
        ({"input_ids": [5, 6, 7], "labels": [6, 7, -100]}, "bad-tokens", "unshifted"),
        ({"input_ids": [5, 6, 7], "labels": [5, 9, 7]}, "bad-tokens", "its input id or -100"),
        ({"input_ids": [5, 6, 7], "seq_lengths": [1, 2]}, "bad-tokens", "packed"),
        ({"input_ids": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1]}, "bad-tokens", "packed"),
    ],
)
def test_token_row_that_would_train_wrongly_is_refused(row, reason, words):
    """Each of these trains without an error elsewhere, on the wrong thing."""
    fault = fault_of(row)
    assert fault.reason == reason and words in fault.detail


def test_positions_of_one_padded_sequence_are_not_packing():
    """Left padding repeats a position before it counts."""
    for positions in ([0, 0, 1, 2], [1, 1, 0, 1], [0, 1, 2, 3]):
        assert record_of({"input_ids": [5, 6, 7, 8], "position_ids": positions}).tokens["input_ids"] == [5, 6, 7, 8]


@pytest.mark.parametrize("marks", [[True], [False, False, True]])
def test_marks_of_another_number_than_tokens_are_named_as_marks(marks):
    fault = fault_of({"input_ids": [5, 6], "weights": [1, 1], "is_negative": marks})
    assert str(fault).startswith(f"DATA018 bad-tokens: is_negative has {len(marks)} entries, input_ids 2")
