"""What every arm shares: rows as tokens, and the model it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sftloss.data import Example, Record, RowError, encode, read_records
from sftloss.data.tokenizer import load_tokenizer, pad_id_of
from sftloss.errors import ConfigError, DataError
from sftloss.experiments.plan import DEMO, GENERATED, SCRATCH, Plan
from sftloss.experiments.run.results import Examples, Forecast
from sftloss.roles import RESPONSE

if TYPE_CHECKING:
    from sftloss.finetune import Recipe

TRAIN_ROWS, EVAL_ROWS = 2000, 240
_MOSTLY, _AT_ONCE = 0.5, 64


@dataclass(frozen=True)
class Rows:
    """Records that became examples, in order, one to one."""

    records: tuple[Record, ...]
    examples: tuple[Example, ...]

    def groups(self) -> Examples:
        """What the report needs to know; rows with the same tokens before the last answer share a prompt."""
        known: dict[bytes, int] = {}
        return Examples(
            tuple(e.task or "" for e in self.examples),
            tuple(e.language or "" for e in self.examples),
            tuple(known.setdefault(_prompt(e), len(known)) for e in self.examples),
        )


def _answer(example: Example) -> np.ndarray:
    """Which tokens are trained ones of an answer."""
    return ((example.weights > 0) & (example.roles == RESPONSE)).numpy()


def _prompt(example: Example) -> bytes:
    """The tokens before the last answer."""
    places = np.flatnonzero(_answer(example))
    if not len(places):
        return example.input_ids.numpy().tobytes()
    breaks = np.flatnonzero(np.diff(places) > 1)
    begin = int(places[breaks[-1] + 1] if len(breaks) else places[0])
    return example.input_ids[:begin].numpy().tobytes()


def training_rows(plan: Plan, tokenizer: Any) -> Rows:
    """What is trained on."""
    if plan.data != GENERATED:
        return _from_file(plan, plan.data, plan.train_rows, tokenizer)
    return _made(plan, "train", plan.train_rows or TRAIN_ROWS, tokenizer)


def second_draw(plan: Plan, tokenizer: Any, known: Rows) -> Rows:
    """Generated training rows drawn anew, without noise; of a task that has questions not in `known`, only those."""
    other = replace(plan, data_seed=plan.data_seed + 1, noise=0.0)
    drawn = _made(other, "train", EVAL_ROWS, tokenizer)
    prompts = {_prompt(e) for e in known.examples}
    fresh = [_prompt(e) not in prompts for e in drawn.examples]
    renewed = {e.task for e, is_fresh in zip(drawn.examples, fresh, strict=True) if is_fresh}
    kept = [i for i, e in enumerate(drawn.examples) if fresh[i] or e.task not in renewed]
    return Rows(tuple(drawn.records[i] for i in kept), tuple(drawn.examples[i] for i in kept))


def held_out_rows(plan: Plan, tokenizer: Any) -> Rows:
    """What arms are judged on; generated ones have no wrong answers."""
    if plan.eval_data is not None:
        return _from_file(plan, plan.eval_data, plan.eval_rows, tokenizer)
    return _made(plan, "test", plan.eval_rows or EVAL_ROWS, tokenizer)


def second_rows(plan: Plan, tokenizer: Any) -> Rows | None:
    """Rows to be forgotten, or not."""
    return None if plan.forget_data is None else _from_file(plan, plan.forget_data, plan.forget_rows, tokenizer)


_MADE: dict[tuple[Any, ...], Rows] = {}


def _made(plan: Plan, split: str, count: int, tokenizer: Any) -> Rows:
    """Generated rows, kept for the arms after this one: making them takes a sixth of a small arm's time."""
    noise = plan.noise if split == "train" else 0.0
    key = (split, count, noise, plan.data_seed, plan.data_tasks, plan.max_length, plan.model, plan.tokenizer)
    if key not in _MADE:
        if len(_MADE) >= 4:
            _MADE.clear()
        _MADE[key] = _encoded(_generated(plan, split, count, noise), plan, tokenizer)
    return _MADE[key]


def _generated(plan: Plan, split: str, count: int, noise: float) -> Sequence[Record]:
    from sftloss.data.tasks import MULTITASK, study_rows

    tasks = MULTITASK if plan.data_tasks == ("multitask",) else plan.data_tasks or None
    try:
        return study_rows(plan.data_seed, count, split=split, noise=noise, tasks=tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _from_file(plan: Plan, source: str, limit: int | None, tokenizer: Any) -> Rows:
    records = read_records(source, format=plan.format, columns=dict(plan.columns) or None, limit=limit)
    return _encoded(records, plan, tokenizer)


def _encoded(records: Iterable[Record], plan: Plan, tokenizer: Any) -> Rows:
    kept, examples, refused = [], [], []
    for record in records:
        try:
            examples.append(encode(record, tokenizer, max_length=plan.max_length))
            kept.append(record)
        except RowError as error:
            refused.append(error)
    if not kept or len(refused) > _MOSTLY * (len(kept) + len(refused)):
        why = f", first {refused[0]}" if refused else ""
        raise DataError(f"compare: {len(refused)} of {len(kept) + len(refused)} rows cannot be used{why}.")
    return Rows(tuple(kept), tuple(examples))


def forecasts(rows: Rows, recipe: Recipe) -> dict[str, Forecast]:
    """Mean answer length that the recipe's T^-alpha teaches, by task and under the empty name of all rows."""
    weights = _tilt(rows, recipe)
    output = np.array([float(_answer(e).sum()) for e in rows.examples])
    prompts = np.asarray(rows.groups().prompt)
    tasks = np.asarray(rows.groups().task)
    found = {}
    for task in ("", *sorted(set(tasks) - {""})):
        chosen = np.ones(len(output), bool) if not task else tasks == task
        t, w = output[chosen], weights[chosen]
        of = np.unique(prompts[chosen], return_inverse=True)[1].ravel()
        by_prompt = np.bincount(of, w * t) / np.maximum(np.bincount(of, w), 1e-300)
        whole = float((w * t).sum() / w.sum()) if w.sum() > 0 else float("nan")
        found[str(task)] = Forecast(float(t.mean()), float(by_prompt[of].mean()), whole)
    return found


def _tilt(rows: Rows, recipe: Recipe) -> np.ndarray:
    """T^-alpha of each row, 0 where nothing is trained: what its weights are in training over what they would be at
    the token mean, both read as training reads them, so that T is its T whatever of the prompt is trained."""
    from sftloss.finetune.fine_tune import data_of, loss_of
    from sftloss.finetune.rows import Collator
    from sftloss.training.batch.tokens import read_tokens

    data, collate, found = data_of(recipe, None, rows.examples)[0], Collator(0), []
    losses = [loss_of(replace(recipe, normalization=rule)) for rule in (recipe.normalization, "token-mean")]
    for begin in range(0, len(data), _AT_ONCE):
        inputs = collate([data[i] for i in range(begin, min(begin + _AT_ONCE, len(data)))])
        shape = inputs["segments"].shape
        tilted, plain = (read_tokens(loss, inputs).weights.view(shape).sum(1) for loss in losses)
        found.append(torch.where(plain > 0, tilted / plain, 0.0))
    return torch.cat(found).numpy()


def start(plan: Plan, seed: int) -> tuple[Any, Any]:
    """Model and tokenizer as every arm of this seed starts from them.

    Raises:
        ModelError: If one cannot be loaded.
    """
    from sftloss.data.demo import MODEL_PATH, demo_tokenizer
    from sftloss.decoder import load_model

    if plan.model != SCRATCH:
        place = str(MODEL_PATH) if plan.model == DEMO else plan.model
        dtype = torch.float32 if plan.dtype == "auto" else getattr(torch, plan.dtype)
        return load_model(place, dtype=dtype, tokenizer=plan.tokenizer)
    tokenizer = demo_tokenizer() if plan.tokenizer is None else load_tokenizer(plan.tokenizer)
    return _llama(plan, tokenizer, seed), tokenizer


def _llama(plan: Plan, tokenizer: Any, seed: int) -> Any:
    """A small Llama with tied embeddings whose weights the seed alone decides."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=3 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.8 * plan.width**-0.5,  # at 0.02 a model this narrow does not begin to copy
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad_id_of(tokenizer),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
