"""A tokenizer trained in milliseconds, so that tests need no download: `from tests.tiny import tiny_tokenizer`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

EOS, PAD, BOS = "<|eos|>", "<|pad|>", "<|bos|>"


def tiny_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int = 320,
    chat_template: str | None = None,
    bos: bool = False,
    special: Sequence[str] = (),
    prepend_bos: bool = False,
) -> Any:
    """A byte-level BPE tokenizer, so every text round-trips.

    Args:
        texts: What the merges are learned from; may be empty (then tokens are bytes).
        vocab_size: Upper bound, `>= 256 + specials`; byte-level needs all 256 bytes.
        chat_template: Jinja text set on the tokenizer.
        bos: Whether the tokenizer has a `bos_token`.
        special: Further special tokens, as `<|im_end|>`.
        prepend_bos: Whether `tokenizer(text)` puts the `bos_token` in front, as Llama does (implies `bos`).

    Returns:
        A `PreTrainedTokenizerFast` with `eos_token`, `pad_token` and, if asked for, `bos_token`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    has_bos = bos or prepend_bos
    specials = [EOS, PAD, *([BOS] if has_bos else []), *special]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    if prepend_bos:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, inner.token_to_id(BOS))]
        )
    named = {"eos_token": EOS, "pad_token": PAD, **({"bos_token": BOS} if has_bos else {})}
    # Without clean_up_tokenization_spaces=False decoding may eat spaces before punctuation.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=list(special),
        clean_up_tokenization_spaces=False,
        **named,
    )
    tokenizer.chat_template = chat_template
    return tokenizer
