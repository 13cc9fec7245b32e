"""The example that a dry run shows."""

from __future__ import annotations

from sftloss.data import Examples
from sftloss.data.tokenizer import load_tokenizer
from sftloss.finetune import strip_of


def test_a_character_that_several_tokens_make_is_shown_whole():
    tokenizer = load_tokenizer("demo")
    rows = [{"messages": [{"role": "user", "content": "大家好"}, {"role": "assistant", "content": "你们好"}]}]
    (example,) = Examples(rows, tokenizer)
    strip = strip_of(example, tokenizer)
    text = "".join(strip.tokens)
    assert "大家好" in text and "你们好" in text and "\ufffd" not in text
    assert len(strip.tokens) == len(strip.roles) == len(strip.values[0]) < len(example.input_ids)
    assert {role for role, value in zip(strip.roles, strip.values[0], strict=True) if value > 0} == {"response"}
