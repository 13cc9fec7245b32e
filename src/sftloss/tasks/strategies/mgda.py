from __future__ import annotations

import torch

from sftloss.tasks.gramian import Gramian, Weights, complementary, scaled
from sftloss.tasks.strategies.of_gramian import GramianMethod


@GramianMethod
def mgda(gramian: Gramian) -> Weights:
    r"""The shortest convex combination of the gradients: :math:`\min_{w \in \Delta} \lVert \sum_k w_k g_k \rVert^2`.

    Solved exactly. It favours tasks with small gradients, and is 0 only where no direction helps all tasks.

    Returns:
        Weights ``>= 0``, of sum 1.

    Gradient:
        No task's loss rises to first order along :math:`-\sum_k w_k g_k`.

    Source:
        Désidéri, 2012; Sener and Koltun, *Multi-Task Learning as Multi-Objective Optimization*, 2018, eq. 3
        (arXiv:1810.04650).
    """
    cosines, norms = scaled("mgda", gramian)
    is_zero = norms == 0
    if bool(is_zero.any()):  # a gradient of zero is the shortest
        return is_zero.to(norms) / is_zero.sum()
    # with y = w n, the minimum of y'Cy / (sum of y/n)^2 is the direction of the minimum of y'Cy + (1 - sum of y/n)^2
    inverse = norms.min() / norms
    y = complementary("mgda", cosines + torch.outer(inverse, inverse), -inverse[None])[0]
    return y * inverse / (y @ inverse)
