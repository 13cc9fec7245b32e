"""Small tables as `measure` writes them, made by hand or at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class MemoryTable:
    token_frame: pl.LazyFrame
    example_frame: pl.LazyFrame

    def tokens(self, *, is_sorted=True):
        return self.token_frame

    def examples(self, *, is_sorted=True):
        return self.example_frame

    def chunks(self, columns):
        yield self.token_frame.select(columns).sort("example", "position").collect()


def make_table(examples, *, objectives=("cross_entropy",), seed=0):
    """`examples`: dicts with p (list), and optionally weight, role, is_end, task, language, prompt, truncated."""
    rng = np.random.default_rng(seed)
    tokens, facts = [], []
    for i, example in enumerate(examples):
        p = np.asarray(example["p"], dtype=float)
        n = len(p)
        role = np.broadcast_to(example.get("role", 1), n)
        ends = np.arange(n) == n - 1
        columns = {
            "example": np.full(n, example.get("id", i)),
            "position": np.arange(1, n + 1, dtype=np.int32),
            "token": np.asarray(example.get("token", rng.integers(5, 90, n)), dtype=np.int32),
            "role": role.astype(np.int8),
            "weight": np.broadcast_to(example.get("weight", 1.0), n).astype(np.float32),
            "is_end": np.asarray(example.get("is_end", ends)),
            "end_logprob": np.log(np.broadcast_to(example.get("end_p", np.nan), n)),
            "target_logprob": np.log(p),
            "other_logprob": np.log1p(-p),
            "entropy": -np.log(p),
            "hidden_norm": np.full(n, 2.0),
        }
        for name in objectives:
            gate = (1 - p) ** 2 if name.startswith("focal") else np.ones(n)
            columns[f"loss:{name}"] = -gate * np.log(p)
            columns[f"l1:{name}"] = 2 * gate * (1 - p)
            columns[f"l2:{name}"] = 1.2 * gate * (1 - p)
        tokens.append(pl.DataFrame(columns))
        facts.append(
            {
                "example": example.get("id", i),
                "path": "data.jsonl",
                "row": i,
                "line": i + 1,
                "task": example.get("task"),
                "language": example.get("language"),
                "source": example.get("source"),
                "n_tokens": n + 1,
                "truncated": example.get("truncated", 0),
                "row_weight": example.get("row_weight", 1.0),
                "prompts": example.get("prompts", [example.get("prompt", 1000 + i)]),
                "digest": example.get("digest", 7_000 + i),
            }
        )
    floats = pl.col(pl.Float64).cast(pl.Float32)
    schema = {name: pl.String for name in ("task", "language", "source")}
    return MemoryTable(
        pl.concat(tokens).with_columns(floats).lazy(), pl.DataFrame(facts, schema_overrides=schema).lazy()
    )


def random_examples(count=200, *, seed=0, easy_answers=True):
    """A third yes/no answers of 2 tokens, the rest long: the tokens' probabilities do not depend on length."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(count):
        short = easy_answers and i % 3 == 0
        n = int(rng.integers(2, 5)) if short else int(rng.integers(5, 60))
        p = rng.beta(6, 1, n) if short else rng.beta(1.2, 1, n)
        prompt = 4
        examples.append(
            {
                "p": np.r_[np.full(prompt, 0.3), p.clip(1e-4, 1 - 1e-4)],
                "weight": np.r_[np.zeros(prompt), np.ones(n)],
                "role": np.r_[np.zeros(prompt), np.ones(n)],
                "task": "yes/no" if short else ("list" if i % 3 == 1 else "add"),
                "language": ("en", "zh")[i % 2],
                "prompt": 100 + i // 2,
            }
        )
    return examples
