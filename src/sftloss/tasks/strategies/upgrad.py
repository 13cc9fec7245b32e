from __future__ import annotations

import torch

from sftloss.tasks.gramian import Gramian, Weights, complementary, scaled
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def upgrad(gramian: Gramian) -> Weights:
    r"""Each gradient projected on the cone of directions that hurt no task; the mean of the projections.

    .. math:: w = \frac1K \sum_k v_k, \qquad v_k = \arg\min_{v \ge e_k} v^\top G v

    Returns:
        Weights ``>= 1/K``; exactly 1/K where no gradients conflict.

    Gradient:
        No task's loss rises to first order, and the step scales with each task's gradient.

    Source:
        Quinton and Rey, *Jacobian Descent for Multi-Objective Optimization*, 2024, section 3 (arXiv:2406.16232).
    """
    cosines, norms = scaled("upgrad", gramian)
    # row k is v_k - e_k, in units of gradient k's length
    x = complementary("upgrad", cosines, cosines)
    lengths = torch.where(norms > 0, norms, 1)
    return (1 + (x * norms[:, None] / lengths).sum(0)) / len(norms)
