"""Candidate ids for the objectives that read them: the tokens that stand before each target."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sftloss.statistics import IGNORED


def context_candidates(
    input_ids: Int[Tensor, "rows columns"], labels: Int[Tensor, "rows columns"], *, last: int = 32
) -> Int[Tensor, "rows columns {last}"]:
    """Return the ids that stand before each label, each once and never the label itself; -100 fills up.

    Put them into the batch as ``candidate_ids``; they are laid out as the labels are.

    Args:
        input_ids: ``(rows, columns)``, one sequence a row.
        labels: ``(rows, columns)``, not shifted. Where they are -100 there are no candidates.
        last: How many tokens before a label are looked at, ``>= 1``.

    Returns:
        ``(rows, columns, last)`` ids.

    Raises:
        ValueError: If the shapes differ or `last` is below 1.

    Example:
        >>> ids = torch.tensor([[5, 6, 5, 7]])
        >>> context_candidates(ids, ids, last=3)[0, 3]
        tensor([   5,    6, -100])
    """
    if input_ids.shape != labels.shape or last < 1:
        shapes = f"{tuple(input_ids.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"context_candidates: input_ids and labels have shapes {shapes}, last is {last}.")
    padded = torch.cat([input_ids.new_full((len(input_ids), last), IGNORED), input_ids[:, :-1]], dim=1)
    before = padded.unfold(1, last, 1).flip(2)  # the nearest first
    is_repeated = (before[..., :, None] == before[..., None, :]).tril(-1).any(dim=3)
    is_candidate = ~is_repeated & (before != labels[..., None]) & (labels != IGNORED)[..., None]
    return torch.where(is_candidate, before, IGNORED)
