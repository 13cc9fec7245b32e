"""Where the tokens of each example lie in a batch, and groups of examples of about the same length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from sftloss.training.passes import Tokens

_WASTE = 1.25  # of the shortest length in a group of examples: the longest


@dataclass(frozen=True)
class Group:
    """Examples that are computed together, padded to the longest.

    Attributes:
        examples: Their indices, ``(n,)``.
        places: Flat positions of their tokens, ``(n, time)``; None where they are the whole batch as it lies.
        is_real: Whether a position is a token, ``(n, time)``; None where all are.
    """

    examples: Int[Tensor, " n"]
    places: Tensor | None = None
    is_real: Tensor | None = None

    def take(self, values: Tensor, rows: int) -> Tensor:
        """Return ``(n, time, ...)`` of flat values ``(positions, ...)``; padding holds anything."""
        return values.unflatten(0, (rows, -1)) if self.places is None else values[self.places]

    def take_gradient(self, values: Tensor, rows: int) -> Tensor:
        """Return ``(n, time, ...)`` of flat values ``(positions, ...)``, 0 at padding."""
        taken = self.take(values, rows)
        if self.is_real is None:
            return taken
        return taken * self.is_real.view(*self.is_real.shape, *[1] * (taken.dim() - 2)).to(taken.dtype)


@dataclass(frozen=True)
class Layout:
    """The examples of a batch: rows, or the documents of packed rows.

    Attributes:
        shape: Rows and columns of the batch.
        examples: Example of each flat position, ``(positions,)``; -1 is padding.
        count: Number of examples.
        rows: Row of each example, ``(count,)``.
        groups: Examples of about the same length, each once.
    """

    shape: tuple[int, int]
    examples: Int[Tensor, " positions"]
    count: int
    rows: Int[Tensor, " count"]
    groups: list[Group] = field(default_factory=list)

    @classmethod
    def of(cls, tokens: Tokens, batch: Mapping[str, Any], device: torch.device) -> Layout:
        """Read the layout of a batch.

        Raises:
            ValueError: If the tokens of an example are not neighbours, or a row belongs to an example of another row.
        """
        segments, columns = tokens.segments.cpu(), tokens.columns
        mask = batch.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2:
            is_real = (mask.cpu().reshape(-1) != 0) | (tokens.weights.cpu() != 0)  # padding may be trained by mistake
            segments = torch.where(is_real, segments, -1)
        real = (segments >= 0).nonzero()[:, 0]
        names, of_real, lengths = torch.unique_consecutive(segments[real], return_inverse=True, return_counts=True)
        if names.numel() != names.unique().numel():
            raise ValueError("per_example_gradients: the tokens of an example must be neighbours in one row.")
        examples = torch.full_like(segments, -1).index_copy_(0, real, of_real)
        starts = lengths.cumsum(0) - lengths
        first = real[starts]
        rows = segments.numel() // columns
        layout = cls((rows, columns), examples.to(device), len(names), first // columns)
        is_plain = len(names) == rows and bool((lengths == columns).all())
        if is_plain:
            layout.groups.append(Group(torch.arange(rows, device=device)))
            return layout
        order = lengths.argsort(stable=True).tolist()
        while order:
            shortest = int(lengths[order[0]])
            members = [i for i in order if int(lengths[i]) <= max(_WASTE * shortest, shortest + 8)]
            order = order[len(members) :]
            layout.groups.append(_group(torch.tensor(members), real, starts, lengths, device))
        return layout

    def sum(self, values: Tensor) -> Tensor:
        """Add values of flat positions ``(positions, ...)`` by example, ``(count, ...)``."""
        if len(self.groups) == 1 and self.groups[0].places is None:
            return values.view(*self.shape, *values.shape[1:]).sum(1)
        out: Tensor = values.new_zeros(self.count + 1, *values.shape[1:])  # the first is of padding
        out.index_add_(0, self.examples + 1, values)
        return out[1:]


def _group(members: Tensor, real: Tensor, starts: Tensor, lengths: Tensor, device: torch.device) -> Group:
    mine = lengths[members]
    steps = torch.arange(int(mine.max()))[None]
    is_real = steps < mine[:, None]
    places = real[starts[members][:, None] + torch.minimum(steps, mine[:, None] - 1)]
    whole = None if bool(is_real.all()) else is_real.to(device)
    return Group(members.to(device), places.to(device), whole)
