"""Metrics of a model's predictions at the trained tokens of held-out rows, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sftloss.analysis.table.tokens import target_statistics
from sftloss.data import batches, encode
from sftloss.data.examples import Batch, Example, Record
from sftloss.data.tokenizer import eos_ids, pad_id_of
from sftloss.decoder import Decoder, open_decoder
from sftloss.errors import DataError
from sftloss.experiments.metrics.shapes import Gap, Metric, Ratio
from sftloss.numbers import Codes, Floats

BINS = 15
TOKENS_PER_BATCH = 4096
_POSITIONS = (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 512, 1024)
"""First position of each bin of the end's calibration: single ones first, then growing by a factor of about 1.4."""


def as_examples(rows: Sequence[Record | Example], tokenizer: Any) -> list[Example]:
    """Rows as examples: records are encoded, examples are taken as they are.

    Raises:
        RowError: If a row cannot be encoded.
        DataError: If there is no row.
    """
    if not rows:
        raise DataError("there is no held-out row", cure="give a file with at least one")
    return [row if isinstance(row, Example) else encode(row, tokenizer) for row in rows]


def numbered_batches(
    examples: Sequence[Example], tokenizer: Any, tokens_per_batch: int
) -> Iterator[tuple[Batch, Codes]]:
    """Batches, each with the row of every scored target (those with a weight above 0), ``(targets,)``."""
    number = {id(example): i for i, example in enumerate(examples)}
    if len(number) < len(examples):
        raise ValueError("evaluate_tokens: an example is in the list twice; give each row its own.")
    for batch in batches(examples, pad_id=pad_id_of(tokenizer), tokens_per_batch=tokens_per_batch):
        rows = np.array([number[id(example)] for example in batch.examples], dtype=np.int64)
        yield batch, rows[batch.segments[batch.weights > 0].numpy()]


def end_ids(examples: Sequence[Example], tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's eos, and what the chat template ends trained turns with."""
    trained = {int(token) for e in examples for token in e.input_ids[e.is_end & (e.weights > 0)]}
    return sorted(trained | eos_ids(tokenizer))


@dataclass(frozen=True)
class TokenTable:
    """Every scored token of a held-out set, in the order of the rows.

    A token is scored where the data gives it a weight above 0: the answers and the tokens that end them.

    Attributes:
        example: Row of each token, int64 ``(tokens,)``; the columns below have the same shape.
        position: Index of the token among the scored tokens of its row.
        nll: :math:`-\\log p_y`, nats.
        confidence: :math:`\\max_j p_j`.
        is_top1: Whether the target is a most probable token.
        entropy: :math:`-\\sum_j p_j \\log p_j`, nats.
        brier: :math:`\\sum_j (p_j - 1[j = y])^2`, from 0 to 2.
        end_probability: Total probability of the tokens that end an answer.
        is_end: Whether the target is one of them.
        examples: Number of rows.
    """

    example: Codes
    position: Codes
    nll: Floats
    confidence: Floats
    is_top1: NDArray[np.bool_]
    entropy: Floats
    brier: Floats
    end_probability: Floats
    is_end: NDArray[np.bool_]
    examples: int

    @property
    def lengths(self) -> Floats:
        """Scored tokens of each row, the end included, ``(examples,)``: the T of the losses."""
        return self.sum(np.ones(len(self.example)))

    def sum(self, values: NDArray[Any]) -> Floats:
        """Sums over the tokens of each row, ``(examples,)``."""
        weights = np.asarray(values, dtype=np.float64)
        return np.bincount(self.example, weights, self.examples).astype(np.float64)


def evaluate_tokens(
    model: nn.Module | Decoder,
    tokenizer: Any,
    rows: Sequence[Record | Example],
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> TokenTable:
    """Run the model over held-out rows once and tabulate its predictions of every scored token.

    Args:
        model: A causal language model, or one that `open_decoder` has opened.
        tokenizer: A transformers tokenizer.
        rows: The held-out set; records are encoded, examples are taken as they are.
        tokens_per_batch: Rows times columns of a batch at most; it changes rounding only.

    Returns:
        The table; computed in float32 or better, held as float64.

    Raises:
        RowError: If a row cannot be encoded.
        DataError: If there is no row.
    """
    examples = as_examples(rows, tokenizer)
    decoder = model if isinstance(model, Decoder) else open_decoder(model)
    ends = torch.tensor(end_ids(examples, tokenizer))
    parts: list[dict[str, NDArray[Any]]] = []
    with decoder.evaluating():
        for batch, rows_of in numbered_batches(examples, tokenizer, tokens_per_batch):
            parts.append(_columns(decoder, batch, ends, rows_of))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["position"], columns["example"]))
    return TokenTable(**{name: values[order] for name, values in columns.items()}, examples=len(examples))


def _columns(decoder: Decoder, batch: Batch, ends: torch.Tensor, rows_of: Codes) -> dict[str, NDArray[Any]]:
    chosen = batch.weights > 0
    stats, _, _, end_logits = target_statistics(decoder, batch, chosen, {}, ends)
    end_probability = (end_logits - stats.logsumexp[:, None]).exp().sum(dim=1).clamp(max=1.0)
    columns = {
        "position": chosen.long().cumsum(dim=1)[chosen] - 1,  # one example a row
        "nll": -stats.target_logprob.double(),
        "confidence": stats.max_logprob.double().exp(),
        "is_top1": stats.is_top1.bool(),
        "entropy": stats.entropy.double(),
        # |p - onehot(y)|^2 = sum p^2 - 2 p_y + 1 = sum of the others' squares + (1 - p_y)^2, which does not cancel
        "brier": stats.off_target_sq.double() + (2.0 * stats.other_logprob.double()).exp(),
        "end_probability": end_probability.double(),
        "is_end": torch.isin(batch.targets[chosen], ends),
    }
    return {"example": rows_of, **{name: values.cpu().numpy() for name, values in columns.items()}}


def token_metrics(table: TokenTable, *, bins: int = BINS) -> dict[str, Metric]:
    r"""Metrics of the predictions at the scored tokens, each over examples.

    ================  =========================================================================================
    name              definition, over rows i with T scored tokens (the end included)
    ================  =========================================================================================
    token_nll         :math:`\sum_i \sum_t -\log p_{it} / \sum_i T_i`, nats a token
    example_nll       mean over rows of a row's own mean over its tokens
    token_accuracy    share of tokens that were a most probable one
    entropy           mean over tokens of :math:`-\sum_j p_j \log p_j`, nats
    brier             mean over tokens of :math:`\sum_j (p_j - 1[j = y])^2`, multiclass, 0 to 2 (Brier, 1950)
    ece               :math:`\sum_b |\sum_{t \in b} (\max_j p_{tj} - 1[\mathrm{right}_t])| / \sum_i T_i` over bins of
                      equal mass of the confidence: expected calibration error (Naeini et al., 2015; bins of equal
                      mass as Nixon et al., 2019, arXiv:1904.01685). Its noise makes it too large by about
                      :math:`\sqrt{\mathrm{bins} / \mathrm{tokens}}` at most: compare arms on the same rows only
    eos_calibration   :math:`\sum p_{end} / \sum 1[\mathrm{end}]`: predicted ends per real end. Above 1 the model
                      ends answers earlier than the data
    eos_ece           calibration error of the probability of ending over bins of the position in the answer, per
                      real end: 0.1 means that a tenth of the ends is predicted at other positions
    ================  =========================================================================================

    The bins of ``ece`` are cut on this table and stay fixed when examples are resampled.

    Args:
        table: From `evaluate_tokens`.
        bins: Number of bins of ``ece``; equal confidences share one, so there may be fewer.

    Returns:
        Metrics by name.
    """
    tokens = table.lengths
    nll, ends = table.sum(table.nll), table.sum(table.is_end)
    return {
        "token_nll": Ratio(nll, tokens),
        "example_nll": Ratio(nll / np.maximum(tokens, 1.0), (tokens > 0).astype(np.float64)),
        "token_accuracy": Ratio(table.sum(table.is_top1), tokens),
        "entropy": Ratio(table.sum(table.entropy), tokens),
        "brier": Ratio(table.sum(table.brier), tokens),
        "ece": Gap(_by_bin(table, equal_mass(table.confidence, bins), table.confidence - table.is_top1), tokens),
        "eos_calibration": Ratio(table.sum(table.end_probability), ends),
        "eos_ece": Gap(_by_bin(table, position_bins(table.position), table.end_probability - table.is_end), ends),
    }


def equal_mass(values: Floats, bins: int) -> Codes:
    """Bin of each value, 0 the lowest; bins hold equally many as far as equal values allow, ``(tokens,)``."""
    if bins < 1:
        raise ValueError(f"equal_mass: bins must be at least 1, got {bins}.")
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins)) if len(values) else np.zeros(0)
    codes = np.searchsorted(edges, values, side="right")
    return np.unique(codes, return_inverse=True)[1].ravel().astype(np.int64)


def position_bins(positions: Codes) -> Codes:
    """Bin of each position in its answer, ``(tokens,)``."""
    return (np.searchsorted(np.array(_POSITIONS), positions, side="right") - 1).astype(np.int64)


def _by_bin(table: TokenTable, codes: Codes, values: NDArray[Any]) -> Floats:
    """Sums by row and bin, ``(examples, bins)``."""
    count = int(codes.max(initial=0)) + 1
    flat = np.bincount(table.example * count + codes, values, table.examples * count)
    return flat.reshape(table.examples, count).astype(np.float64)


class Bin(NamedTuple):
    """One point of a reliability diagram: values from `low` to `high`, mean prediction, observed frequency."""

    low: float
    high: float
    tokens: int
    predicted: float
    observed: float


def reliability(table: TokenTable) -> tuple[Bin, ...]:
    """Confidence against accuracy, in the bins of ``ece``, lowest first."""
    return _diagram(equal_mass(table.confidence, BINS), table.confidence, table.confidence, table.is_top1)


def end_reliability(table: TokenTable) -> tuple[Bin, ...]:
    """Probability of ending against endings, by position in the answer (`low` to `high`, from 0)."""
    position = table.position.astype(np.float64)
    return _diagram(position_bins(table.position), position, table.end_probability, table.is_end)


def _diagram(codes: Codes, place: Floats, predicted: Floats, observed: NDArray[np.bool_]) -> tuple[Bin, ...]:
    return tuple(
        Bin(
            float(place[here].min()), float(place[here].max()), int(here.sum()),
            float(predicted[here].mean()), float(observed[here].mean()),
        )
        for here in (codes == code for code in np.unique(codes))
    )  # fmt: skip
