"""Answers that a model generates after the prompts of held-out rows, by transformers' own generation."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sftloss.data import spoken_roles
from sftloss.data.examples import Example, Record
from sftloss.data.tokenizer import pad_id_of
from sftloss.decoder import Decoder, open_decoder
from sftloss.errors import DataError
from sftloss.experiments.metrics.tokens import as_examples, end_ids
from sftloss.roles import RESPONSE


@dataclass(frozen=True)
class Sampling:
    """How answers are generated.

    Attributes:
        samples: Answers per row.
        max_new_tokens: Largest length of an answer, the end included; a longer answer is cut off.
        temperature: 0 takes the most probable token each time; 1 samples from the model's own distribution.
        seed: Seed of the samples. The global random state is restored afterwards.
        outputs_per_batch: Answers generated at once; it is part of what decides the samples.
    """

    samples: int = 1
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    outputs_per_batch: int = 128

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "outputs_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"Sampling: {name} must be at least 1, got {getattr(self, name)}.")
        if not self.temperature >= 0:
            raise ValueError(f"Sampling: temperature must be >= 0, got {self.temperature}.")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"Sampling: at temperature 0 all {self.samples} samples are equal; ask for one.")


@dataclass(frozen=True)
class Generated:
    """One generated answer.

    Attributes:
        row: Index of the row.
        sample: Index of the answer among those of its row.
        tokens: Token ids, without the one that ends the answer.
        text: The decoded tokens, without special ones.
        ended: Whether the model ended the answer; False: it was cut off at `max_new_tokens`.
        reference_length: Tokens of the row's own answer, its end included.
    """

    row: int
    sample: int
    tokens: tuple[int, ...]
    text: str
    ended: bool
    reference_length: int

    @property
    def length(self) -> int:
        """Tokens generated, the end included: counted like `reference_length` and the T of a loss."""
        return len(self.tokens) + self.ended


def generate(
    model: nn.Module | Decoder,
    tokenizer: Any,
    rows: Sequence[Record | Example],
    sampling: Sampling | None = None,
) -> tuple[Generated, ...]:
    """Generate answers for held-out rows with transformers' `generate`, in batches padded on the left.

    The prompt is everything before the row's last answer, token for token as in training. An answer ends at the
    tokenizer's eos or at the token with which the chat template ends turns. The model's own generation settings (top-k,
    penalties) are not used, so that the model is measured and not its settings. Equal arguments give equal answers on
    one machine; every batch has its own seed, so batches do not depend on each other.

    Args:
        model: A causal language model, or one that `open_decoder` has opened.
        tokenizer: A transformers tokenizer.
        rows: Records are encoded, examples are taken as they are.
        sampling: How answers are generated. None: one greedy answer per row.

    Returns:
        ``len(rows) * samples`` answers, by row, then by sample.

    Raises:
        RowError: If a row cannot be encoded.
        DataError: If there is no row, or one has no answer.

    Example:
        >>> generate(model, tokenizer, rows, Sampling(samples=4, temperature=1.0))[0].text   # doctest: +SKIP
        'saw pin rake'
    """
    sampling = sampling or Sampling()
    examples = as_examples(rows, tokenizer)
    prompts, references = zip(*(_prompt(example) for example in examples), strict=True)
    ends = end_ids(examples, tokenizer)
    decoder = model if isinstance(model, Decoder) else open_decoder(model)
    generated: dict[tuple[int, int], Generated] = {}
    with decoder.evaluating(), _without_settings(decoder.model):
        # similar prompt lengths together, longest first: little padding, and a lack of memory shows at once
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        size = max(1, sampling.outputs_per_batch // sampling.samples)
        for chosen in (order[start : start + size] for start in range(0, len(order), size)):
            outputs = _new_tokens(decoder, [prompts[i] for i in chosen], ends, sampling, pad_id_of(tokenizer))
            for place, ids in enumerate(outputs.tolist()):
                row, sample = chosen[place // sampling.samples], place % sampling.samples
                generated[row, sample] = _output((row, sample), ids, ends, references[row], tokenizer)
    return tuple(generated[key] for key in sorted(generated))


def _prompt(example: Example) -> tuple[Tensor, int]:
    """The tokens before the last trained answer, and the length of that answer."""
    is_answer = ((example.weights > 0) & (spoken_roles(example.roles, example.weights > 0) == RESPONSE)).tolist()
    stop = max((i + 1 for i, answer in enumerate(is_answer) if answer), default=0)
    if not stop:
        raise DataError(f"{example.origin} has no answer", cure="leave it out of the held-out rows")
    start = stop - 1
    while start > 1 and is_answer[start - 1]:
        start -= 1
    return example.input_ids[:start], stop - start


def _new_tokens(decoder: Decoder, prompts: Sequence[Tensor], ends: list[int], sampling: Sampling, pad: int) -> Tensor:
    """New tokens, ``(prompts * samples, new)``, padded after the end."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    is_drawn = sampling.temperature > 0
    drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if is_drawn else {}
    settings = _settings(
        do_sample=is_drawn, num_return_sequences=sampling.samples, max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends, pad_token_id=pad, use_cache=True, **drawn,
    )  # fmt: skip
    device = decoder.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # a batch's content decides its seed: leaving rows out of other batches changes nothing here
        torch.manual_seed(zlib.crc32(repr((sampling.seed, ids.tolist())).encode()))
        out: Any = decoder.model.generate(  # type: ignore[operator]  # a mixin's, unknown to nn.Module
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings
        )
    new: Tensor = out[:, width:].cpu()
    return new


def _output(key: tuple[int, int], ids: list[int], ends: list[int], reference: int, tokenizer: Any) -> Generated:
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    tokens = tuple(ids if stop is None else ids[:stop])
    text = tokenizer.decode(list(tokens), skip_special_tokens=True)
    return Generated(*key, tokens, text, stop is not None, reference)


def _settings(**values: Any) -> Any:
    from transformers import GenerationConfig

    make: Any = GenerationConfig
    return make(**values)


@contextmanager
def _without_settings(model: nn.Module) -> Iterator[None]:
    """Blank generation settings inside: transformers fills what a call leaves open from the model's own."""
    kept = {part: vars(part)["generation_config"] for part in model.modules() if "generation_config" in vars(part)}
    try:
        for part in kept:
            part.generation_config = _settings()
        yield
    finally:
        for part, settings in kept.items():
            part.generation_config = settings
