"""Weights and coefficients by group: a task, a language, a source."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.weights.normalizer import NORMALIZERS, divide
from sftloss.weights.segments import check_flat, dense_ids, exact_dtype, refuse_negative


def group_weights(
    weights: Float[Tensor, " tokens"], groups: Int[Tensor, " tokens"], factors: Float[Tensor, " groups"]
) -> Float[Tensor, " tokens"]:
    r"""Weights times a factor of the token's group: :math:`u_i = w_i \, \lambda_{g(i)}`.

    For factors known from the data (a language, a source). They enter Z, so they shift weight between groups and
    leave the learning rate alone; :func:`group_coefficients` is for factors that multiply afterwards.

    Args:
        weights: Weight of each token, ``(tokens,)``, dimensionless.
        groups: Group of each token, ``(tokens,)``, indices into ``factors``; negative is padding.
        factors: Factor of each group, ``(groups,)``, dimensionless.

    Returns:
        Weights, ``(tokens,)``, in the dtype of ``weights``; 0 on padding.

    Raises:
        ValueError: If the shapes do not fit, or a group on the CPU is out of range.

    Example:
        >>> group_weights(torch.ones(3), torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.5]))
        tensor([1.0000, 0.5000, 0.5000])
    """
    check_flat("group_weights", weights, groups=groups)
    _check_groups("group_weights", groups, factors)
    return weights * _of_group(factors, groups).to(weights.dtype)


def group_normalizers(
    weights: Float[Tensor, " tokens"],
    groups: Int[Tensor, " tokens"],
    *,
    count: int,
    by: str = "weights",
    segments: Int[Tensor, " tokens"] | None = None,
) -> Float[Tensor, " groups"]:
    r"""Contribution of one micro-batch to each group's normalizer :math:`Z_g`, as :func:`normalizer` by group.

    Args:
        weights: Weight of each token, ``(tokens,)``, dimensionless.
        groups: Group of each token, ``(tokens,)``, from 0 to ``count - 1``; negative is padding.
        count: Number of groups of the run, present in this micro-batch or not.
        by: ``"weights"``, ``"tokens"`` or ``"sequences"``.
        segments: Sequence of each token, needed by ``"sequences"`` only.

    Returns:
        Contributions, ``(count,)``, float64; 0 for an absent group. Add them over micro-batches and ranks.

    Raises:
        ValueError: If the shapes differ, ``by`` is unknown or lacks its segments, a group on the CPU is out of range,
            or with ``by="weights"`` a weight on the CPU is negative.

    Example:
        >>> group_normalizers(torch.ones(3), torch.tensor([0, 2, 2]), count=3)
        tensor([1., 0., 2.], dtype=torch.float64)
    """
    check_flat("group_normalizers", weights, groups=groups)
    if by not in NORMALIZERS or by == "constant":
        raise ValueError(f"group_normalizers: by must be weights, sequences or tokens, got {by!r}.")
    dtype = exact_dtype(weights.device)
    sums = torch.zeros(count + 1, dtype=dtype, device=weights.device)
    _check_groups("group_normalizers", groups, sums[:-1])
    if by == "weights":
        refuse_negative("group_normalizers", weights)
        amounts = weights.to(dtype)
    elif by == "tokens":
        amounts = (weights != 0).to(dtype)
    else:
        if segments is None:
            raise ValueError('group_normalizers: by="sequences" needs segments.')
        check_flat("group_normalizers", weights, segments=segments)
        amounts = _first_of_segment(weights, groups, segments, count).to(dtype)
    # slot `count` collects padding and is dropped
    return sums.index_add_(0, torch.where(groups < 0, count, groups.long()), amounts)[:-1]


def group_coefficients(
    weights: Float[Tensor, " tokens"],
    groups: Int[Tensor, " tokens"],
    totals: Float[Tensor, " groups"] | Float[Tensor, ""],
    factors: Float[Tensor, " groups"],
) -> Float[Tensor, " tokens"]:
    r"""Coefficients of a step whose groups are weighted: :math:`c_i = \lambda_g \, u_i / Z_g`.

    With one total for each group the loss is :math:`\sum_g \lambda_g L_g` of group means; with a single total it is
    one mean whose groups are scaled. A group absent from the step has :math:`Z_g = 0` and no token: it adds nothing
    and changes no other group's coefficient.

    Args:
        weights: Weight u of each token, ``(tokens,)``, dimensionless.
        groups: Group of each token, ``(tokens,)``, indices into ``factors``; negative is padding.
        totals: :math:`Z_g` of the whole step (all micro-batches, all ranks), ``(groups,)``, or one scalar Z for all.
        factors: :math:`\lambda_g`, ``(groups,)``, dimensionless.

    Returns:
        Coefficients, ``(tokens,)``, in the dtype of ``weights``; 0 on padding and where the total is 0.

    Raises:
        ValueError: If the shapes do not fit, or a group on the CPU is out of range.

    Gradient:
        None: factors are detached, so the derivative of the total in a group's loss is its factor.

    Example:
        >>> group_coefficients(
        ...     torch.ones(3), torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])
        ... )
        tensor([1.0000, 1.5000, 1.5000])
    """
    check_flat("group_coefficients", weights, groups=groups)
    if totals.dim() > 0 and totals.shape != factors.shape:
        raise ValueError(
            f"group_coefficients: totals has shape {tuple(totals.shape)}, factors {tuple(factors.shape)}; "
            "give one total for each group or a single one."
        )
    _check_groups("group_coefficients", groups, factors)
    totals = totals.detach().to(weights.device)
    z = totals if totals.dim() == 0 else _of_group(totals, groups)
    factor = _of_group(factors, groups).to(exact_dtype(weights.device))
    return divide(weights.to(factor.dtype) * factor, z).to(weights.dtype)


def _of_group(values: Tensor, groups: Tensor) -> Tensor:
    padded = torch.cat([values.detach().to(groups.device), values.new_zeros(1).to(groups.device)])
    return padded[torch.where(groups < 0, values.numel(), groups.long())]


def _check_groups(name: str, groups: Tensor, values: Tensor) -> None:
    if values.dim() != 1:
        raise ValueError(f"{name}: expected one number for each group, got shape {tuple(values.shape)}.")
    if groups.device.type == "cpu" and groups.numel() and int(groups.max()) >= values.numel():
        raise ValueError(f"{name}: group {int(groups.max())} is out of range, there are {values.numel()} groups.")


def _first_of_segment(weights: Tensor, groups: Tensor, segments: Tensor, count: int) -> Tensor:
    """True at the first weighted token of each (segment, group)."""
    dense = dense_ids(segments)
    counted = (weights != 0) & (segments >= 0) & (groups >= 0)
    pair = torch.where(counted, dense * count + groups.long(), -1)
    ordered, order = torch.sort(pair, stable=True)
    first = torch.ones_like(counted)
    first[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(first).scatter_(0, order, first) & counted
