"""Loading a tokenizer by itself, and the ids that are read from it in one place."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sftloss.data import load_tokenizer, pad_id_of
from sftloss.data.demo import MODEL_PATH, demo_tokenizer
from sftloss.data.tokenizer import eos_ids, special_ids
from sftloss.errors import ModelError


def test_a_tokenizer_is_loaded_from_the_directory_of_a_model():
    assert load_tokenizer(MODEL_PATH)("copy: red").input_ids == demo_tokenizer()("copy: red").input_ids


@pytest.mark.parametrize(("name", "words"), [("./nowhere", "missing"), (__file__, "a file")])
def test_a_path_that_is_no_directory_is_refused_by_name(name, words):
    with pytest.raises(ModelError, match=words) as error:
        load_tokenizer(name)
    assert name in str(error.value)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"cannot load .*tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("pad", "eos", "expected"), [(3, 2, 3), (0, 2, 0), (None, 2, 2), (None, 0, 0), (None, None, 0)]
)
def test_padding_falls_back_to_the_end_of_the_sequence(pad, eos, expected):
    tokenizer = SimpleNamespace(pad_token_id=pad, eos_token_id=eos)
    assert pad_id_of(tokenizer) == expected


def test_special_tokens_hold_the_end_of_the_sequence():
    tokenizer = demo_tokenizer()
    assert eos_ids(tokenizer) == {tokenizer.eos_token_id} < special_ids(tokenizer)
