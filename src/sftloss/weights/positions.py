"""Weight by a token's position in its segment."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.weights.segments import check_flat, dense_ids, ranks_within, refuse_negative, segment_sums


def position_weights(
    weights: Float[Tensor, " tokens"],
    segments: Int[Tensor, " tokens"],
    *,
    start: float = 0.5,
    end: float = 1.0,
) -> Float[Tensor, " tokens"]:
    r"""A linear ramp over the weighted tokens of each segment, of weighted mean 1.

    .. math::
        u_i = w_i \, \frac{r_i}{\sum_{j} w_j r_j / \sum_{j} w_j}, \qquad
        r_i = \text{start} + (\text{end} - \text{start}) \frac{k_i}{n - 1}

    with :math:`k_i` the number of weighted tokens before i in its segment, n their number and the sums over the
    segment. The sum of a segment's weights, its T, stays what it was: a ramp moves weight within an example and
    changes neither the balance between examples nor the learning rate.

    Args:
        weights: Weight of each token, ``(tokens,)``, dimensionless, ``>= 0``; tokens of weight 0 do not count as
            positions.
        segments: Sequence of each token, ``(tokens,)``, integers; negative is padding. The tokens of a segment
            stand in reading order, and need not be adjacent.
        start: Height of the ramp at the first weighted token, ``>= 0``.
        end: Height at the last, ``>= 0``. Only the ratio of the two matters.

    Returns:
        Weights, ``(tokens,)``, in the dtype of ``weights``; 0 on padding. A single token keeps its weight.

    Raises:
        ValueError: If the shapes differ, a height is negative or both are 0, or a weight on the CPU is negative.

    Example:
        >>> position_weights(torch.ones(3), torch.zeros(3, dtype=torch.int64), start=0.5, end=1.5)
        tensor([0.5000, 1.0000, 1.5000])

    Source:
        The linear ramp from 0.5 to 1 is common in teaching material. There it has mean 0.75, which lowers the learning
        rate by a quarter unnoticed.
    """
    check_flat("position_weights", weights, segments=segments)
    if not (0 <= start < float("inf") and 0 <= end < float("inf") and start + end > 0):
        raise ValueError(f"position_weights: start and end must be >= 0, not both 0, got {start} and {end}.")
    refuse_negative("position_weights", weights)
    dense = dense_ids(segments)
    before, count = ranks_within((weights != 0).to(weights.dtype), dense)
    fraction = torch.where(count > 1, before / (count - 1).clamp(min=1), 0.5)
    ramp = start + (end - start) * fraction
    exact = weights.to(ramp.dtype)
    old, new = segment_sums(exact, dense)[dense], segment_sums(exact * ramp, dense)[dense]
    return torch.where(new > 0, exact * ramp * old / torch.where(new > 0, new, 1), 0).to(weights.dtype)
