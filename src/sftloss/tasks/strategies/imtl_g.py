from __future__ import annotations

import torch

from sftloss.registry import attach_record
from sftloss.tasks.gramian import Gramian, Weights, scaled
from sftloss.tasks.strategies.of_gramian import of_gramian
from sftloss.tasks.strategies.strategy import Strategy, StrategyRecord


@attach_record(StrategyRecord())
def imtl_g(*, smoothing: float = 1e-3) -> Strategy:
    r"""The combination whose projection on every gradient's direction is the same.

    .. math:: w \propto G^{+} \sqrt{\operatorname{diag} G}, \qquad \sum_k w_k = 1

    Args:
        smoothing: Of lagged weights, as in :func:`of_gramian`.

    Returns:
        The strategy, which needs the Gramian.

    Gradient:
        :math:`\langle g_k / \lVert g_k \rVert, \sum_j w_j g_j \rangle` is one number for all k.

    Source:
        Liu et al., *Towards Impartial Multi-task Learning*, ICLR 2021, eq. 5 (IMTL-G).
    """
    return of_gramian(imtl_g_weights, name="imtl_g", smoothing=smoothing)


def imtl_g_weights(gramian: Gramian) -> Weights:
    """Weights of :func:`imtl_g` for this step, of sum 1; some may be negative. All 0 where they sum to 0."""
    cosines, norms = scaled("imtl_g", gramian)
    lengths = torch.where(norms > 0, norms, 1)
    v = torch.linalg.pinv(cosines, hermitian=True) @ (norms > 0).to(norms) / lengths
    total = v.sum()
    return v / total if abs(float(total)) > 1e-12 * float(v.abs().max()) else torch.zeros_like(v)
