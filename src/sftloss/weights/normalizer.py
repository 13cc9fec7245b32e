"""One number for the whole optimizer step, and the coefficients it makes of the weights."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.weights.segments import check_flat, dense_ids, exact_dtype, refuse_negative, segment_sums

NORMALIZERS = ("weights", "sequences", "tokens", "constant")


def validate_weights(weights: Float[Tensor, " tokens"], *, by: str = "weights") -> None:
    """Check weights for a normalizer. It reads the values, so it belongs in the collator, on the CPU.

    Args:
        weights: Weight of each token, any shape.
        by: The normalizer the weights are for; only ``"weights"`` refuses negative ones.

    Raises:
        ValueError: If a weight is NaN or infinite, or negative with ``by="weights"``.
    """
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("validate_weights: a weight is NaN or infinite; every weight must be a finite number.")
    if by == "weights" and bool((weights < 0).any()):
        raise ValueError(
            'validate_weights: a weight is negative, so the sum of weights is no normalizer; use by="sequences", '
            '"tokens" or "constant".'
        )


def normalizer(
    weights: Float[Tensor, " tokens"],
    segments: Int[Tensor, " tokens"],
    *,
    by: str = "weights",
    constant: float | None = None,
    parts: int | None = None,
) -> Float[Tensor, ""]:
    r"""Contribution of one micro-batch to the normalizer Z of its optimizer step.

    Add the contributions of all micro-batches and all ranks **before** the first backward pass, then divide by the
    one sum (:func:`coefficients`): any split of the step into micro-batches, packs and ranks gives the same loss.
    A mean of the micro-batches' own means is a different loss, which favours short sequences.

    =============== ==========================================================================
    ``by``          contribution
    =============== ==========================================================================
    ``"weights"``   :math:`\sum_i u_i`: the loss is a weighted mean, so weights never change its scale
    ``"sequences"`` number of segments with a non-zero weight (a segment lies in one micro-batch whole)
    ``"tokens"``    number of tokens with a non-zero weight
    ``"constant"``  ``constant / parts``, so that the step's sum is ``constant``
    =============== ==========================================================================

    Args:
        weights: Weight u of each token, ``(tokens,)``, dimensionless.
        segments: Sequence of each token, ``(tokens,)``, integers; negative is padding and counts nowhere.
        by: One of the four names.
        constant: Z itself, ``> 0``, for ``by="constant"`` only.
        parts: Number of micro-batches of the step over all ranks, for ``by="constant"`` only.

    Returns:
        A scalar, float64 (float32 where the device has no float64): counts above 2^24 stay exact.

    Raises:
        ValueError: If the shapes differ, the name is unknown, ``constant`` or ``parts`` is missing, superfluous or
            not positive, or with ``by="weights"`` a weight on the CPU is negative. On a device values are not read,
            because that would wait for it; :func:`validate_weights` checks them in the collator.

    Example:
        >>> normalizer(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0, 0, 1]), by="sequences")
        tensor(1., dtype=torch.float64)
    """
    check_flat("normalizer", weights, segments=segments)
    if by not in NORMALIZERS:
        raise ValueError(f"normalizer: by must be one of {', '.join(NORMALIZERS)}, got {by!r}.")
    share = _constant_share(by, constant, parts)
    dtype = exact_dtype(weights.device)
    if by == "constant":
        return torch.tensor(share, dtype=dtype, device=weights.device)
    if by == "weights":
        refuse_negative("normalizer", weights)
    real = segments >= 0
    if by == "weights":
        return torch.where(real, weights, 0).to(dtype).sum()
    counted = real & (weights != 0)
    if by == "tokens":
        return counted.to(dtype).sum()
    return (segment_sums(counted.to(dtype), dense_ids(segments)) > 0).to(dtype).sum()


def _constant_share(by: str, constant: float | None, parts: int | None) -> float:
    """Return one micro-batch's share of a constant normalizer; 0 for the other names, which take none."""
    if by != "constant":
        if constant is not None or parts is not None:
            raise ValueError(f'normalizer: constant and parts belong to by="constant", got by={by!r}.')
        return 0.0
    if constant is None or not 0 < constant < float("inf"):
        raise ValueError(f'normalizer: by="constant" needs constant > 0, got {constant}.')
    if parts is None or parts < 1:
        raise ValueError(
            f'normalizer: by="constant" needs parts, the number of micro-batches of the step on all ranks, got {parts}.'
        )
    return constant / parts


def coefficients(weights: Float[Tensor, " tokens"], total: Tensor | float) -> Float[Tensor, " tokens"]:
    r"""The coefficients of the step: :math:`c_i = u_i / Z`; zero where Z = 0, never NaN.

    Args:
        weights: Weight u of each token, any shape, dimensionless.
        total: Z: the sum of every micro-batch's :func:`normalizer`, a number or a scalar tensor.

    Returns:
        Coefficients of the shape and dtype of ``weights``.

    Raises:
        ValueError: If ``total`` is a tensor of more than one number, or a plain number that is negative or not finite.

    Example:
        >>> coefficients(torch.tensor([1.0, 3.0]), 4.0)
        tensor([0.2500, 0.7500])
    """
    if isinstance(total, Tensor):
        if total.numel() != 1:
            raise ValueError(f"coefficients: total is one number for the whole step, got shape {tuple(total.shape)}.")
        total = total.detach().reshape(()).to(weights.device)
    else:
        if not 0 <= total < float("inf"):
            raise ValueError(f"coefficients: total must be a finite number >= 0, got {total}.")
        total = torch.tensor(float(total), dtype=exact_dtype(weights.device), device=weights.device)
    return divide(weights, total)


def divide(weights: Tensor, total: Tensor) -> Tensor:
    """``weights / total``, 0 where the total is 0, divided in the wider dtype and returned in that of ``weights``."""
    exact = weights.to(torch.promote_types(weights.dtype, total.dtype))
    return torch.where(total != 0, exact / total, 0).to(weights.dtype)
