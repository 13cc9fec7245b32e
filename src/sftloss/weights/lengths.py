"""Weight by the length of a token's segment."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.weights.segments import check_flat, dense_ids, refuse_negative, segment_sums

DIRECTIONS = ("down", "up")


def segment_lengths(weights: Float[Tensor, " tokens"], segments: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """T of each token's segment: the sum of the segment's weights; 0 on padding. Shape ``(tokens,)``, float64.

    Example:
        >>> segment_lengths(torch.tensor([1.0, 0.5, 1.0]), torch.tensor([7, 7, 9]))
        tensor([1.5000, 1.5000, 1.0000], dtype=torch.float64)
    """
    check_flat("segment_lengths", weights, segments=segments)
    dense = dense_ids(segments)
    return segment_sums(weights, dense)[dense]


def length_weights(
    weights: Float[Tensor, " tokens"], segments: Int[Tensor, " tokens"], *, alpha: float
) -> Float[Tensor, " tokens"]:
    r"""The length exponent: :math:`u_i = w_i \, T^{-\alpha}`, T the sum of the segment's weights.

    ``alpha = 0`` gives every weighted token its weight (one sum over all tokens), ``alpha = 1`` every segment the
    same weight. It is a choice and not a correction: at its optimum cross-entropy learns the data reweighted by
    :math:`T^{-\alpha}`, so ``alpha > 0`` favours shorter output, there as far as length varies for a given
    prompt; ``alpha = 0`` leaves the lengths of the data as they are.

    Args:
        weights: Role times position weight of each token, ``(tokens,)``, dimensionless, ``>= 0``. Rewards, language
            factors and :func:`adaptive_length_weights` come afterwards, else they would cancel from ``alpha = 1``.
        segments: Sequence of each token, ``(tokens,)``, integers; negative is padding. Packed sequences have a
            segment, and a T, each.
        alpha: The exponent, dimensionless, finite. Between 0 and 1 as a rule.

    Returns:
        Weights, ``(tokens,)``, in the dtype of ``weights``. A segment without weight, and padding, get 0, never NaN.

    Raises:
        ValueError: If the shapes differ, ``alpha`` is not finite, or a weight on the CPU is negative.

    Example:
        >>> length_weights(torch.ones(3), torch.tensor([0, 0, 1]), alpha=1.0)
        tensor([0.5000, 0.5000, 1.0000])

    Source:
        Own derivation of the reweighting (`docs`, "what your loss trains on"), checked by training; the exponent
        as in Wu et al., *Google's Neural Machine Translation System*, 2016, section 7 (arXiv:1609.08144; there of
        (5 + T) / 6), where it ranks hypotheses in beam search, which is where the bias to short output belongs.
    """
    check_flat("length_weights", weights, segments=segments)
    if not abs(alpha) < float("inf"):
        raise ValueError(f"length_weights: alpha must be finite, got {alpha}.")
    refuse_negative("length_weights", weights)
    lengths = segment_lengths(weights, segments)
    # T = 0 has no power -alpha; such a segment holds no weight to scale
    factor = torch.where(lengths > 0, torch.where(lengths > 0, lengths, 1) ** -alpha, 0)
    return (weights.to(factor.dtype) * factor).to(weights.dtype)


def adaptive_length_weights(
    weights: Float[Tensor, " tokens"],
    segments: Int[Tensor, " tokens"],
    *,
    target_length: float,
    penalty: float = 0.1,
    direction: str = "down",
) -> Float[Tensor, " tokens"]:
    r"""Weights by the distance of a segment's length n (its weighted tokens, counted) from a target length.

    .. math::
        \text{down: } u_i = w_i \, e^{-\lambda |n - n^*| / n^*}, \qquad
        \text{up: } u_i = w_i \left(1 + \lambda \frac{|n - n^*|}{n^*}\right)

    ``"up"`` is the factor of teaching material. It multiplies the likelihood of a *fixed* answer, so the model imitates
    answers of the **wrong** length **harder** (1.9 times, at 500 tokens, target 50 and penalty 0.1). ``"down"`` is the
    default because its optimum is the data reweighted towards the target length.

    Args:
        weights: Weight of each token, ``(tokens,)``, dimensionless; after :func:`length_weights` if both are used.
        segments: Sequence of each token, ``(tokens,)``, integers; negative is padding.
        target_length: The wanted length :math:`n^*`, in tokens, ``> 0``.
        penalty: Strength :math:`\lambda`, dimensionless, ``>= 0``; 0 leaves the weights as they are.
        direction: ``"down"`` or ``"up"``.

    Returns:
        Weights, ``(tokens,)``, in the dtype of ``weights``; 0 on padding.

    Raises:
        ValueError: If the shapes differ, ``target_length`` or ``penalty`` is out of range, or the direction unknown.

    Example:
        >>> adaptive_length_weights(torch.ones(3), torch.tensor([0, 0, 1]), target_length=2.0, penalty=1.0)
        tensor([1.0000, 1.0000, 0.6065])

    Source:
        ``"up"``: common in teaching material. ``"down"``: own, from the optimum of weighted likelihood.
    """
    check_flat("adaptive_length_weights", weights, segments=segments)
    if not 0 < target_length < float("inf"):
        raise ValueError(f"adaptive_length_weights: target_length must be > 0, got {target_length}.")
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"adaptive_length_weights: penalty must be >= 0, got {penalty}.")
    if direction not in DIRECTIONS:
        raise ValueError(f"adaptive_length_weights: direction must be 'down' or 'up', got {direction!r}.")
    counts = segment_lengths((weights != 0).to(weights.dtype), segments)
    deviation = penalty * (counts - target_length).abs() / target_length
    factor = torch.exp(-deviation) if direction == "down" else 1 + deviation
    return torch.where(segments < 0, 0, weights.to(factor.dtype) * factor).to(weights.dtype)
