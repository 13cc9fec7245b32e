from __future__ import annotations

import torch

from sftloss.tasks.gramian.solve import Gramian, Weights, checked


def imtl_g(gramian: Gramian) -> Weights:
    r"""The combination whose projection on every gradient's direction is the same.

    .. math:: w \propto G^{+} \sqrt{\operatorname{diag} G}, \qquad \sum_k w_k = 1

    Args:
        gramian: :math:`G_{ij} = \langle g_i, g_j \rangle`, ``(tasks, tasks)``.

    Returns:
        Weights ``(tasks,)``, float64, of sum 1; some may be negative. All 0 where they sum to 0. Of this step.

    Raises:
        ValueError: If the Gramian is not square or not finite.

    Gradient:
        :math:`\langle g_k / \lVert g_k \rVert, \sum_j w_j g_j \rangle` is one number for all k.

    Source:
        Liu et al., *Towards Impartial Multi-task Learning*, ICLR 2021, eq. 5 (IMTL-G).
    """
    g = checked("imtl_g", gramian)
    norms = g.diagonal().clamp(min=0).sqrt()
    v = torch.linalg.pinv(g, hermitian=True) @ norms
    total = v.sum()
    return v / total if abs(float(total)) > 1e-12 * float(v.abs().max()) else torch.zeros_like(v)
