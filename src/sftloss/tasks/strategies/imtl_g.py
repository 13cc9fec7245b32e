from __future__ import annotations

import torch

from sftloss.tasks.gramian import Gramian, Weights, scaled
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def imtl_g(gramian: Gramian) -> Weights:
    r"""The combination whose projection on every gradient's direction is the same.

    .. math:: w \propto G^{+} \sqrt{\operatorname{diag} G}, \qquad \sum_k w_k = 1

    Returns:
        Weights of sum 1; some may be negative. All 0 where they sum to 0.

    Gradient:
        :math:`\langle g_k / \lVert g_k \rVert, \sum_j w_j g_j \rangle` is one number for all k.

    Source:
        Liu et al., *Towards Impartial Multi-task Learning*, ICLR 2021, eq. 5 (IMTL-G).
    """
    cosines, norms = scaled("imtl_g", gramian)
    lengths = torch.where(norms > 0, norms, 1)
    v = torch.linalg.pinv(cosines, hermitian=True) @ (norms > 0).to(norms) / lengths
    total = v.sum()
    return v / total if abs(float(total)) > 1e-12 * float(v.abs().max()) else torch.zeros_like(v)
