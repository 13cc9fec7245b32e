"""Token ids as texts: nothing is lost, a character in several tokens is readable, blanks of words stay."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from sftloss.data.demo import demo_tokenizer  # noqa: E402
from sftloss.data.tokenizer import CONTINUED, pieces  # noqa: E402


@pytest.mark.parametrize("text", ["copy: red", "你好，世界", "naïve 🙂 café", "👩‍👩‍👧 ok"])
def test_pieces_are_one_a_token_and_together_the_text(text):
    tokenizer = demo_tokenizer()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = pieces(ids, tokenizer)
    assert len(found) == len(ids)
    assert "".join(found).replace(CONTINUED, "") == text


def test_a_cut_character_is_no_reason_to_lose_those_after_it():
    tokenizer = demo_tokenizer()
    ids = tokenizer("水好", add_special_tokens=False).input_ids
    found = pieces(ids[1:], tokenizer)
    assert len(found) == len(ids) - 1 and "好" in found


def test_a_word_keeps_the_blank_that_sentencepiece_puts_into_its_token():
    class Words:
        def convert_ids_to_tokens(self, ids):
            return [("\u2581the", "\u2581cat", "s")[i] for i in ids]

        def decode(self, ids):
            return "".join(self.convert_ids_to_tokens(ids)).replace("\u2581", " ").strip()

    assert pieces([0, 1, 2], Words()) == [" the", " cat", "s"]
