from __future__ import annotations

import torch

from sftloss.tasks.gramian import Gramian, Weights, checked
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def aligned_mtl(gramian: Gramian) -> Weights:
    r"""Makes the gradients orthogonal and equally long, by the nearest such matrix, then takes their mean.

    .. math:: w = \sqrt{\lambda_{\min}} \, V \Lambda^{-1/2} V^\top \tfrac1K \mathbf 1, \qquad G = V \Lambda V^\top

    over the eigenvalues that are not rounding.

    Returns:
        Weights, of which some may be negative.

    Gradient:
        With independent gradients every task gains the same, :math:`\sqrt{\lambda_{\min}} / K` for aligned ones.

    Source:
        Senushkin et al., *Independent Component Alignment for Multi-Task Learning*, 2023, algorithm 1
        (arXiv:2305.19000).
    """
    g = checked("aligned_mtl", gramian)
    values, vectors = torch.linalg.eigh(g)
    kept = values > values.max() * len(g) * torch.finfo(g.dtype).eps
    mean = torch.full((len(g),), 1 / len(g), dtype=g.dtype)
    if not bool(kept.any()):
        return mean
    values, vectors = values[kept], vectors[:, kept]
    weights: Weights = values.min().sqrt() * (vectors * values.rsqrt()) @ (vectors.T @ mean)
    return weights
