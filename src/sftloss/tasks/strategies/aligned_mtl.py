from __future__ import annotations

import torch

from sftloss.registry import attach_record
from sftloss.tasks.gramian import Gramian, Weights, checked
from sftloss.tasks.strategies.of_gramian import of_gramian
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord())
def aligned_mtl(*, smoothing: float = 1e-3) -> Strategy:
    r"""Makes the gradients orthogonal and equally long, by the nearest such matrix, then takes their mean.

    .. math:: w = \sqrt{\lambda_{\min}} \, V \Lambda^{-1/2} V^\top \tfrac1K \mathbf 1, \qquad G = V \Lambda V^\top

    over the eigenvalues that are not rounding.

    Args:
        smoothing: Of lagged weights, as in :func:`of_gramian`.

    Returns:
        The strategy, which needs the Gramian.

    Gradient:
        With independent gradients every task gains the same, :math:`\sqrt{\lambda_{\min}} / K` for aligned ones.

    Source:
        Senushkin et al., *Independent Component Alignment for Multi-Task Learning*, 2023, algorithm 1
        (arXiv:2305.19000).
    """
    return of_gramian(aligned_mtl_weights, name="aligned_mtl", smoothing=smoothing)


def aligned_mtl_weights(gramian: Gramian) -> Weights:
    """Weights of :func:`aligned_mtl` for this step; some may be negative."""
    g = checked("aligned_mtl", gramian)
    values, vectors = torch.linalg.eigh(g)
    kept = values > values.max() * len(g) * torch.finfo(g.dtype).eps
    mean = torch.full((len(g),), 1 / len(g), dtype=g.dtype)
    if not bool(kept.any()):
        return mean
    values, vectors = values[kept], vectors[:, kept]
    return values.min().sqrt() * (vectors * values.rsqrt()) @ (vectors.T @ mean)
