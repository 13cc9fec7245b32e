from __future__ import annotations

import torch

from sftloss.tasks.gramian import Gramian, Weights, checked
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def pcgrad(gramian: Gramian, *, seed: int = 0) -> Weights:
    r"""Gradient surgery: each gradient loses its components against the others, one by one in random order; the sum.

    .. math:: g_i \leftarrow g_i - \frac{\min(0, \langle g_i, g_j \rangle)}{\lVert g_j \rVert^2} g_j

    Args:
        seed: Of the order, which is drawn by a generator of its own, so that ranks agree.

    Returns:
        Weights ``>= 1``; exactly 1 where no gradients conflict.

    Gradient:
        For two tasks no loss rises to first order; for more the later projections may undo earlier ones.

    Source:
        Yu et al., *Gradient Surgery for Multi-Task Learning*, 2020, algorithm 1 (arXiv:2001.06782).
    """
    g = checked("pcgrad", gramian)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(g), dtype=g.dtype)
    for i in range(len(g)):
        w = torch.zeros(len(g), dtype=g.dtype)
        w[i] = 1
        for j in torch.randperm(len(g), generator=generator).tolist():
            against = float(g[j] @ w)
            if j != i and against < 0:
                w[j] -= against / float(g[j, j])
        total += w
    return total
